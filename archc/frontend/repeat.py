"""What follows from positions alone is made once for all sequences, and repeated where it must be as many."""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.ops.recurrence import RECUR
from archc.ir.ops.shape import CONCAT, REPEAT_SEQUENCE
from archc.ir.origins import Origin, Origins, once_in
from archc.ir.program import POSITIONS


def repeat_sequences(graph: Graph) -> None:
    """Let joined values, and what a recurrence reads, have rows of as many sequences; other ops broadcast."""
    once = once_in(graph)
    for part, _ in graph.runs():
        for node in part.nodes():
            if node.op in (CONCAT, RECUR):
                _repeat(part, node, once)


def _repeat(graph: Graph, node: Node, once: Origins) -> None:
    """Repeat those of a node's values that may stand for all sequences, if others do not."""
    batch = node.types[0].shape[0]
    known = node.operand(POSITIONS) if node.op is RECUR else None
    rows = [
        value for value in node.inputs if value not in (None, known) and graph.type(value).shape[0] == batch
    ]
    single = [value for value in rows if once.get((id(graph), value)) in (Origin.GIVEN, Origin.MIXED)]
    like = next((value for value in rows if value not in single), None)
    if like is None or not single:
        return
    inputs = [
        graph.add_like(node, REPEAT_SEQUENCE, [value, like]).outputs[0] if value in single else value
        for value in node.inputs
    ]
    graph.update(node, inputs=tuple(inputs))
