"""Loops whose turns are no layers: they bring no weights, and no two are alike.  They are written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from archc.ir.graph import Graph
from archc.ir.node import Value
from archc.ir.ops.structure import INPUT, LOSSES, WEIGHT
from archc.ir.paths import Index, Path


def are_layers(bodies: Sequence[Graph], schedule: Sequence[int]) -> bool:
    """Whether a loop's bodies are worth keeping as such: for their weights, losses, or as they come again."""
    kept = (WEIGHT, LOSSES)
    has_own = any(node.op in kept for body in bodies for part in body.walk() for node in part.nodes())
    return has_own or len(bodies) < len(schedule)


def write_out(outer: Graph, body: Graph, operands: Sequence[Value], variable: str, step: int) -> list[Value]:
    """Put one turn's nodes into the graph around the loop; what the turn leaves there."""
    made = dict(zip(body.inputs, operands, strict=True))
    for node in body.nodes():
        if node.op is INPUT:
            continue
        scope = node.scope and replace(node.scope, path=_at(node.scope.path, variable, step))
        copy = outer.add(
            node.op,
            [None if value is None else made[value] for value in node.inputs],
            node.attributes,
            names=node.names,
            span=node.span,
            scope=scope,
            path=_at(node.path, variable, step),
        )
        made.update(zip(node.outputs, copy.outputs, strict=True))
    return [made[value] for _, value in body.outputs]


def _at(path: Path, variable: str, step: int) -> Path:
    """A path in one turn."""
    return tuple(
        (
            segment.text({variable: step})
            if isinstance(segment, Index) and segment.variable == variable
            else segment
        )
        for segment in path
    )
