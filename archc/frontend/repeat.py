"""What follows from positions alone is made once for all sequences, and repeated where it must be as many."""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.shape import REPEAT_SEQUENCE
from archc.ir.ops.structure import EXPERTS, SCAN
from archc.ir.origins import Origin, Origins, once_in
from archc.ir.program import KEY_POSITIONS, POSITIONS
from archc.ir.scan_form import scan_form

_FOR_ALL = {POSITIONS, KEY_POSITIONS, "bias", "cos", "sin"}  # operands that may stand for all sequences


def repeat_sequences(graph: Graph) -> None:
    """Let values that an op takes row by row have rows of as many sequences; elementwise ops broadcast."""
    once = once_in(graph)
    for part, _ in graph.runs():
        for node in part.nodes():
            if node.op in (EXPERTS, SCAN) or not (node.bodies or node.op.has(Trait.ELEMENTWISE)):
                _repeat(part, node, once)


def _repeat(graph: Graph, node: Node, once: Origins) -> None:
    """Repeat those of a node's values that may stand for all sequences, if others do not."""
    batch = [type_.shape[0] for type_ in node.types[:1] if type_.shape]
    rows = [value for value in _by_row(node) if graph.type(value).shape[:1] == tuple(batch)]
    single = [value for value in rows if once.get((id(graph), value)) in (Origin.GIVEN, Origin.MIXED)]
    like = next((value for value in rows if value not in single), None)
    if like is None or not single:
        return
    inputs = [
        graph.add_like(node, REPEAT_SEQUENCE, [value, like]).outputs[0] if value in single else value
        for value in node.inputs
    ]
    graph.update(node, inputs=tuple(inputs))


def _by_row(node: Node) -> list[Value]:
    """The values of which a node takes rows of each sequence."""
    if node.op is SCAN:  # its positions are as its steps need them
        return [value for value in node.inputs if value not in (None, scan_form(node).positions)]
    left_out = node.given((*node.op.models, *node.op.widths, *_FOR_ALL))
    return [value for value in node.operands if value not in left_out]
