"""Structural hashes: equal for graphs that are the same but for node numbers, names and spans."""

from __future__ import annotations

import hashlib
from typing import Any

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Op
from archc.ir.rule import FusedOp


def structural_hash(graph: Graph) -> str:
    """A digest of the graph's structure, weights' paths included."""
    places = {value: f"in{place}" for place, value in enumerate(graph.inputs)}
    lines: list[str] = []
    for node in graph.nodes():
        if not any(value in places for value in node.outputs):
            lines.append(_line(node, places))
            places.update({v: f"{len(lines)}.{v.output}" for v in node.outputs})
    lines.append(repr([(name, places[value]) for name, value in graph.outputs]))
    lines.append(repr([str(graph.type(value)) for value in graph.inputs]))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _line(node: Node, places: dict[Value, str]) -> str:
    operands = [places[value] if value is not None else "-" for value in node.inputs]
    attributes = [(name, _text(value)) for name, value in sorted(node.attributes.items())]
    return f"{_meaning(node.op)} {operands} {attributes} {[str(type_) for type_ in node.types]}"


def _meaning(op: Op) -> str:
    """An op's name, and what a fused op of that name computes, which another of the same name may not."""
    if not isinstance(op, FusedOp):
        return op.name
    steps = [(_meaning(step.op), step.inputs, sorted(step.attributes.items())) for step in op.rule.steps]
    return f"{op.name} {[operand.name for operand in op.operands]} {steps} {op.rule.outputs}"


def _text(value: Any) -> str:
    if isinstance(value, Graph):
        return structural_hash(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))})"
    if isinstance(value, float):
        return repr(float(value))
    return str(value)
