"""Constant folding: arithmetic on numbers, arithmetic without effect, casts that only give a dtype."""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS
from archc.ir.ops.structure import CONSTANT
from archc.passes.context import Context

CAST_LIKE, UPCAST, UPCAST_LIKE = (OPS[name] for name in ("cast_like", "upcast", "upcast_like"))

# (op, operand, value): the op gives back its other operand when this operand is this number.
_NEUTRAL = {
    ("mul", 0): 1.0,
    ("mul", 1): 1.0,
    ("div", 1): 1.0,
    ("sub", 1): 0.0,
}


def fold_constants(graph: Graph, _context: Context) -> None:
    """Compute what is known now; drop multiplications by 1, equal splits spelled as lists, unread casts."""
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
            other = node.operands[1 - place]
            if graph.type(other) == node.types[0]:
                graph.replace_uses(node.outputs[0], other)
                return
    if node.op.name == "split" and isinstance(node.attributes["sizes"], tuple):
        graph.update(node, attributes={"sizes": canonical_sizes(node.attributes["sizes"])})
    if node.op is CAST_LIKE:
        _fold_cast(graph, node)


def _fold_cast(graph: Graph, cast: Node) -> None:
    """cast_like(x, upcast(y)) is upcast_like(x, y)."""
    x, like = cast.inputs
    if like is None or (wide := graph.node(like)).op is not UPCAST:
        return
    folded = graph.add_like(cast, UPCAST_LIKE, [x, wide.inputs[0]], names=cast.names)
    graph.replace_uses(cast.outputs[0], folded.outputs[0])
    graph.remove_unread([wide, cast])


def _number(graph: Graph, value: Value | None) -> float | None:
    if value is None or graph.node(value).op is not CONSTANT:
        return None
    number: float = graph.node(value).attributes["value"]
    return number


def canonical_sizes(sizes: tuple[int, ...]) -> int | tuple[int, ...]:
    """A split's sizes, as their number where all are equal."""
    return len(sizes) if len(set(sizes)) == 1 else sizes
