"""Common subexpressions are merged; what nothing reads is removed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.structure import APPEND, BRANCH, EXPERTS, INPUT, KEEP, LOOP, SCAN, WEIGHT
from archc.ir.program import are_positions
from archc.ir.scan_form import is_of_token, scan_form
from archc.ir.weights import weight_places
from archc.passes.carried import drop_carried
from archc.passes.context import Context

_EACH_ITS_OWN = (INPUT, WEIGHT, LOOP, EXPERTS, SCAN, BRANCH, APPEND, KEEP)


def merge_common(graph: Graph, _context: Context) -> None:
    """Let equal computations be one."""
    for part in graph.walk():
        merge_equal(part, [n for n in part.nodes() if not (n.op in _EACH_ITS_OWN or n.op.has(Trait.EFFECT))])


def merge_equal(graph: Graph, nodes: Iterable[Node]) -> None:
    """Let some nodes of a graph, in its order, that compute the same be one."""
    seen: dict[Any, Node] = {}
    for node in nodes:
        node = graph.node(node.id)  # what it reads may be another's just now
        first = seen.setdefault(_key(node), node)
        if first is not node:
            for old, new in zip(node.outputs, first.outputs, strict=True):
                graph.replace_uses(old, new)
            graph.remove(node)


def _key(node: Node) -> tuple[Any, ...]:
    inputs = node.inputs
    if node.op.has(Trait.COMMUTATIVE):
        inputs = tuple(sorted(inputs, key=repr))
    return node.op.name, inputs, tuple(sorted(node.attributes.items(), key=lambda item: item[0]))


def drop_unused(graph: Graph, _context: Context) -> None:
    """Remove nodes that no output needs, and what loops take in without reading it."""
    _drop_unused(graph)
    for value in list(graph.inputs):
        implicit = are_positions(graph.node(value).attributes["name"])
        if implicit and not graph.users(value):
            graph.inputs.remove(value)
            graph.remove(graph.node(value))


def unread_weights(graph: Graph) -> dict[str, tuple[Node, list[Node]]]:
    """Weights by name that no output needs, and where what is made of each ends.

    A graph without them is another model to a checkpoint.
    """
    needed = graph.copy()
    _drop_unused(needed)
    if _count_weights(needed) == _count_weights(graph):
        return {}
    kept, parts = _weights_by_name(needed), {id(node): part for part in graph.walk() for node in part.nodes()}
    unread = {name: node for name, node in _weights_by_name(graph).items() if name not in kept}
    return {name: (node, _ends(parts[id(node)], node)) for name, node in unread.items()}


def _ends(graph: Graph, node: Node) -> list[Node]:
    """The nodes of what is made of a node that none of the graph reads."""
    ends, waiting, seen = [], [node], {node.id}
    while waiting:
        node = waiting.pop()
        users = {user.id: user for value in node.outputs for user, _ in graph.users(value)}
        waiting += [user for number, user in users.items() if number not in seen]
        seen |= users.keys()
        ends += [] if users else [node]
    return ends


def _count_weights(graph: Graph) -> int:
    return sum(len(part.weights()) for part in graph.walk())


def _weights_by_name(graph: Graph) -> dict[str, Node]:
    return {name: place.node for place in weight_places(graph) for name in place.names()}


def _drop_unused(graph: Graph) -> None:
    for node in reversed(graph.nodes()):
        unused = not any(_is_read(graph, value) for value in node.outputs)
        if unused and node.op is not INPUT and not node.op.has(Trait.EFFECT):
            graph.remove(node)
        elif node.op in (LOOP, EXPERTS, SCAN):
            _drop_inside(graph, node)


def _drop_inside(graph: Graph, node: Node) -> None:
    if node.op is LOOP:
        drop_carried(graph, node.id)
    for body in node.bodies:
        _drop_unused(body)
    if node.op is LOOP:
        _drop_unread_captures(graph, graph.node(node.id))
    elif node.op is SCAN:
        _drop_unscanned(graph, node)
    else:
        _drop_untaken(graph, node)


def _drop_unread_captures(graph: Graph, loop: Node) -> None:
    carried = len(loop.attributes["entering"])
    kept = list(range(carried))
    for place in range(carried, len(loop.inputs)):
        if any(_is_read(body, body.inputs[place]) for body in loop.bodies):
            kept.append(place)
    if len(kept) == len(loop.inputs):
        return
    for body in loop.bodies:
        _keep(body, [body.inputs[place] for place in kept])
    graph.update(loop, inputs=tuple(loop.inputs[place] for place in kept))


def _drop_untaken(graph: Graph, experts: Node) -> None:
    """Drop what the body of experts takes without reading it."""
    (body,) = experts.bodies
    kept = [place for place, value in enumerate(body.inputs) if _is_read(body, value)]
    _keep(body, [body.inputs[place] for place in kept])
    chosen, *captured = experts.inputs
    taken = tuple(experts.attributes["taken"][place] for place in kept)
    graph.update(
        experts,
        inputs=(chosen, *(captured[place] for place in kept)),
        attributes={**experts.attributes, "taken": taken},
    )


def _drop_unscanned(graph: Graph, scan: Node) -> None:
    """Drop what the body of a scan takes without reading it, but for one value that tells the tokens."""
    (body,), form = scan.bodies, scan_form(scan)
    states = body.inputs[: len(form.states)]
    pairs = list(zip(body.inputs[len(states) :], form.taken, strict=True))
    of_token = [inner for inner, _ in pairs if is_of_token(body.type(inner), scan.types[0].shape[:2])]
    read = [inner for inner in of_token if _is_read(body, inner)]
    kept = [pair for pair in pairs if _is_read(body, pair[0]) or pair[0] in (read or of_token)[:1]]
    _keep(body, [*states, *dict(kept)])
    graph.update(scan, inputs=replace(form, taken=tuple(outer for _, outer in kept)).inputs)


def _keep(body: Graph, inputs: list[Value]) -> None:
    """Take the other inputs out of a body."""
    for value in body.inputs:
        if value not in inputs:
            body.remove(body.node(value))
    body.inputs = inputs


def _is_read(graph: Graph, value: Value) -> bool:
    return graph.is_read(value) or graph.is_output(value)
