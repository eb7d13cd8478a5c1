"""Checks that a graph is well formed: acyclic, every type as its op infers it, loops closed."""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node, shared_in, stored_in
from archc.ir.ops.structure import BRANCH, EXPERTS, LOOP, LOSSES, SCAN, WEIGHT
from archc.ir.scan_form import scan_form
from archc.ir.types import TypeMistake, taken_type
from archc.ir.weights import experts_of


class MalformedGraphError(Exception):
    """A graph that some pass has broken: a fault of the compiler, never of a spec."""


def verify_graph(graph: Graph) -> None:
    """Raises `MalformedGraphError` at the first thing that is wrong.

    What has been verified is checked again only when it, or an operand, has changed; bodies are looked into.
    """
    if not graph.is_acyclic():
        raise MalformedGraphError(f"{graph.name} has a cycle")
    for node in graph.nodes():
        if node.id in graph.unverified:
            _check_types(graph, node)
        if node.op in _INSIDE:
            _INSIDE[node.op](graph, node)
    graph.unverified.clear()
    for name, value in graph.outputs:
        if value.node not in graph:
            raise MalformedGraphError(f"{graph.name}: output {name} does not exist")


def _wrong(graph: Graph, node: Node, reason: str) -> MalformedGraphError:
    place = f" ({node.span})" if node.span else ""
    return MalformedGraphError(f"{graph.name}: {node.op.name} {node.id}{place}: {reason}")


def _check_types(graph: Graph, node: Node) -> None:
    for value in node.inputs:
        if value is not None and (value.node not in graph or value.output >= len(graph.node(value).types)):
            raise _wrong(graph, node, f"operand {value} does not exist")
    try:
        inferred = node.op.infer_types(graph.input_types(node), node.attributes)
    except TypeMistake as mistake:
        raise _wrong(graph, node, str(mistake)) from mistake
    if inferred != node.types:
        found = f"is {list(map(str, node.types))}, but its op infers {list(map(str, inferred))}"
        raise _wrong(graph, node, found)
    if node.op is WEIGHT:
        _check_weight(graph, node)


def _check_weight(graph: Graph, node: Node) -> None:
    shapes = [stored.held_shape for stored in stored_in(node)]
    rows = sum(shape[0] for shape in shapes) if shapes else 0
    experts, shared = experts_of(node), shared_in(node)
    if shared and [stored.held_shape for stored in shared.sources] != shapes:
        raise _wrong(graph, node, "a shared expert's tensors have other shapes than those of the others")
    held = ((experts[1] + (shared.count if shared else 0),) if experts else ()) + (rows, *shapes[0][1:])
    if held != node.types[0].shape or len({shape[1:] for shape in shapes}) != 1:
        raise _wrong(graph, node, f"{node.types[0]} is not made up of {shapes}")


def _check_loop(graph: Graph, node: Node) -> None:
    entering = node.attributes["entering"]
    operands = [graph.type(value) for value in node.operands]
    if len(node.attributes["indices"]) != len(node.attributes["schedule"]):
        raise _wrong(graph, node, "indices and schedule differ in length")
    _check_bodies(graph, node)
    for body in node.bodies:
        if [name for name, _ in body.outputs] != list(node.attributes["carried"]):
            raise _wrong(graph, node, "a body's outputs are not what the loop carries")
    carried = dict(zip(node.attributes["carried"], node.types, strict=True))
    for name, type_ in zip(entering, operands, strict=False):
        if len(node.attributes["schedule"]) > 1 and carried.get(name, type_) != type_:
            raise _wrong(graph, node, f"`{name}` changes type from {type_} to {carried[name]}")


def _check_experts(graph: Graph, node: Node) -> None:
    """The body takes rows of what tokens and choices have, and gives one row for each."""
    (body,) = node.bodies
    verify_graph(body)
    chosen, *captured = [graph.type(value) for value in node.operands]
    kinds = node.attributes["taken"]
    expected = [taken_type(type_, kind) for type_, kind in zip(captured, kinds, strict=True)]
    if [body.type(value) for value in body.inputs] != expected:
        raise _wrong(graph, node, "the body's inputs are not what it takes")
    result = body.type(body.outputs[0][1])
    places = chosen.shape if node.attributes["apart"] else chosen.shape[:2]
    if [result.with_shape(*places, *result.shape[1:])] != list(node.types):
        raise _wrong(graph, node, "the body's output differs in type from the result")


def _check_scan(graph: Graph, node: Node) -> None:
    """The body takes states and what it reads of outside, and gives the result and the states after it."""
    (body,) = node.bodies
    verify_graph(body)
    form, tokens = scan_form(node), node.types[0].shape[:2]
    starts = [graph.type(value) for value in form.starts]
    states = [start.with_shape(*tokens, *start.shape) for start in starts]
    if [body.type(value) for value in body.inputs] != states + [graph.type(value) for value in form.taken]:
        raise _wrong(graph, node, "the body's inputs are not the states and what it takes")
    if [body.type(value) for _, value in body.outputs] != [*node.types, *states]:
        raise _wrong(graph, node, "the body's outputs are not the result and the states")


def _check_losses(graph: Graph, node: Node) -> None:
    body: Graph = node.attributes["body"]
    verify_graph(body)
    if [body.type(value) for value in body.inputs] != [graph.type(v) for v in node.operands]:
        raise _wrong(graph, node, "the body's inputs are not its operands")
    if len(body.outputs) != len(node.attributes["kinds"]):
        raise _wrong(graph, node, "the body's outputs are not one of each kind")


def _check_bodies(graph: Graph, node: Node) -> None:
    operands = [graph.type(value) for value in node.operands]
    for body in node.bodies:
        verify_graph(body)
        if [body.type(value) for value in body.inputs] != operands:
            raise _wrong(graph, node, f"a body's inputs are not the {node.op.name}'s operands")
        if tuple(body.type(value) for _, value in body.outputs) != node.types:
            raise _wrong(graph, node, f"a body's outputs differ in type from the {node.op.name}'s")


# What lies within an op is looked into each time: a graph does not know of changes in its bodies.
_INSIDE = {
    LOOP: _check_loop,
    EXPERTS: _check_experts,
    SCAN: _check_scan,
    BRANCH: _check_bodies,
    LOSSES: _check_losses,
}
