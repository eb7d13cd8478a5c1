"""Constant folding: arithmetic on numbers, and arithmetic that changes nothing."""

from __future__ import annotations

from archc.ir.graph import Graph, Node, Value
from archc.ir.ops.structure import CONSTANT
from archc.passes.context import Context

# (op, operand, value): the op gives back its other operand when this operand is this number.
_NEUTRAL = {
    ("mul", 0): 1.0,
    ("mul", 1): 1.0,
    ("div", 1): 1.0,
    ("sub", 1): 0.0,
}


def fold_constants(graph: Graph, _context: Context) -> None:
    """Compute what is known now; drop multiplications by 1 and equal splits spelled out as lists."""
    for part in graph.walk():
        for node in part.nodes():
            _fold(part, part.node(node.id))


def _fold(graph: Graph, node: Node) -> None:
    numbers = [_number(graph, value) for value in node.inputs]
    if node.op.scalar and numbers and all(number is not None for number in numbers):
        constant = graph.add_like(node, CONSTANT, (), {"value": float(node.op.scalar(*numbers))})
        graph.replace_uses(node.outputs[0], constant.outputs[0])
        return
    for place, number in enumerate(numbers):
        if number is not None and _NEUTRAL.get((node.op.name, place)) == number:
            other = node.inputs[1 - place]
            assert other is not None
            if graph.type(other) == node.types[0]:
                graph.replace_uses(node.outputs[0], other)
                return
    if node.op.name == "split" and isinstance(node.attributes["sizes"], tuple):
        graph.update(node, attributes={"sizes": canonical_sizes(node.attributes["sizes"])})


def _number(graph: Graph, value: Value | None) -> float | None:
    if value is None or graph.node(value).op is not CONSTANT:
        return None
    number: float = graph.node(value).attributes["value"]
    return number


def canonical_sizes(sizes: tuple[int, ...]) -> int | tuple[int, ...]:
    """A split's sizes, as their number where all are equal."""
    return len(sizes) if len(set(sizes)) == 1 else sizes
