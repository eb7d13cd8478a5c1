"""What follows from positions alone is made once for all sequences, and repeated where it must be as many."""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.ops.shape import CONCAT, REPEAT_SEQUENCE
from archc.ir.origins import Origin, Origins, once_in


def repeat_sequences(graph: Graph) -> None:
    """Let each `concat` have rows of as many sequences in all its operands; other ops broadcast."""
    once = once_in(graph)
    for part, _ in graph.runs():
        for node in part.nodes():
            if node.op is CONCAT:
                _repeat(part, node, [value for value in node.inputs if _may_be_one(once, part, value)])


def _may_be_one(once: Origins, graph: Graph, value: Value | None) -> bool:
    """Whether a value may have the rows of a single sequence, for all."""
    return value is not None and once.get((id(graph), value)) in (Origin.GIVEN, Origin.MIXED)


def _repeat(graph: Graph, concat: Node, once: list[Value | None]) -> None:
    like = next((value for value in concat.inputs if value not in once), None)
    if like is None:
        return
    inputs = [
        graph.add_like(concat, REPEAT_SEQUENCE, [value, like]).outputs[0] if value in once else value
        for value in concat.inputs
    ]
    graph.update(concat, inputs=tuple(inputs))
