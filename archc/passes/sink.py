"""Values for each pair of tokens are computed where they are read: they are large, and cheap to compute."""

from __future__ import annotations

from collections.abc import Sequence

from archc.ir.copier import Copier
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.structure import LOOP
from archc.passes.context import Context
from archc.passes.hoist import capture


def sink_pairs(graph: Graph, context: Context) -> None:
    """Compute a bias of positions anew in each layer that adds it, beside the attention that takes it in."""
    for node in graph.nodes():
        if node.op.has(Trait.PAIRWISE):
            for loop, place in graph.users(node.outputs[0]):
                if loop.op is LOOP and place >= len(loop.attributes["entering"]):
                    _sink_into_loop(graph, loop.id, node)
    for loop in graph.loops():
        for body in loop.bodies:
            sink_pairs(body, context)


def _sink_into_loop(graph: Graph, number: int, node: Node) -> None:
    for body in graph.node(number).bodies:
        inner = capture(graph, number, body, node.outputs[0])
        operands = [value and capture(graph, number, body, value) for value in node.inputs]
        _make_for_readers(body, inner, node, operands)


def sink_into_branch(graph: Graph, number: int) -> None:
    """Make the biases of positions that a branch is given in its bodies."""
    given = [graph.node(value) for value in graph.node(number).operands]
    for node in given:
        if node.op.has(Trait.PAIRWISE):
            _move_into_branch(graph, number, node)


def _move_into_branch(graph: Graph, number: int, node: Node) -> None:
    branch = graph.node(number)
    inputs = list(branch.inputs)
    for value in node.inputs:
        if value is not None and value not in inputs:
            inputs.append(value)
            for body in branch.bodies:
                body.add_input(graph.name_of(value), graph.type(value), graph.node(value).span)
    place = inputs.index(node.outputs[0])
    for body in branch.bodies:
        operands = [value and body.inputs[inputs.index(value)] for value in node.inputs]
        inner = body.inputs[place]
        _make_for_readers(body, inner, node, operands)
        body.inputs.remove(inner)
        body.remove(body.node(inner))
    graph.update(branch, inputs=(*inputs[:place], *inputs[place + 1 :]))
    graph.remove_unread([node])


def _make_for_readers(body: Graph, inner: Value, node: Node, operands: Sequence[Value | None]) -> None:
    """Give each reader of `inner`, which stands for a node's value, one that is made just before it."""
    for reader, _ in body.users(inner):
        order = (*reader.order[:-1], reader.order[-1] - 1, 0)
        made = Copier(body).copy(node, operands, scope=reader.scope, order=order)
        again = [made.outputs[0] if value == inner else value for value in reader.inputs]
        body.update(body.node(reader.id), inputs=tuple(again))
