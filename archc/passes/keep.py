"""Values that stay the same while tokens are decoded: each one that decoding reads gets a `keep`."""

from __future__ import annotations

from archc.ir.fixed import Fixed
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.ops.structure import INPUT, KEEP
from archc.ir.program import are_positions


def keep_fixed(root: Graph, fixed: Fixed) -> None:
    """Put `keep` between fixed values and what reads them for each token: an encoder's result, its keys."""
    _keep_in(root, fixed, [n for n in fixed.of(root) if not are_positions(str(n.attributes.get("name", "")))])


def _keep_in(graph: Graph, fixed: Fixed, nodes: list[Node]) -> None:
    for node in nodes:
        for value in node.outputs:
            _keep(graph, node, value, fixed)
    for loop in graph.loops():
        if (graph, loop.outputs[0]) not in fixed:
            for body in loop.bodies:
                _keep_in(body, fixed, [node for node in fixed.of(body) if node.op is not INPUT])


def _keep(graph: Graph, node: Node, value: Value, fixed: Fixed) -> None:
    growing = [(user, place) for user, place in graph.users(value) if (graph, user.outputs[0]) not in fixed]
    if not growing and not graph.is_output(value):
        return
    reader, place = growing[0] if growing else (None, 0)
    operands = reader.op.operands if reader is not None and reader.op.past else ()
    name = graph.name_of(value) or (operands[place].name if operands else "")
    kept = graph.add_like(node, KEEP, [value], {}, names=(name,))
    for user, place in growing:
        user = graph.node(user.id)
        inputs = list(user.inputs)
        inputs[place] = kept.outputs[0]
        graph.update(user, inputs=tuple(inputs))
    graph.outputs = [(name, kept.outputs[0] if out == value else out) for name, out in graph.outputs]
