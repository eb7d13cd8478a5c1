"""Loops that are unrolled: their iterations have no weights, and no two are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from archc.ir.copier import Copier
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.ops.numbers import CONSTANTS
from archc.ir.ops.structure import INPUT, OF_ITERATION
from archc.ir.paths import Index, Path


def unrolled(outer: Graph, body: Graph, operands: Sequence[Value], variable: str, step: int) -> list[Value]:
    """Put the nodes of one iteration into the graph around the loop; what the iteration leaves there."""
    copier = Copier(outer, dict(zip(body.inputs, operands, strict=True)))
    for node in body.nodes():
        if node.op is OF_ITERATION and node.attributes["variable"] == variable:
            _choose(outer, body, copier, node, step)
        elif node.op is not INPUT:
            scope = node.scope and replace(node.scope, path=_at(node.scope.path, variable, step))
            copier.copy(node, scope=scope, path=_at(node.path, variable, step))
    return [copier.values[value] for _, value in body.outputs]


def _choose(outer: Graph, body: Graph, copier: Copier, node: Node, step: int) -> None:
    """Put the numbers of one iteration into the graph, of a table for all of them."""
    table = body.node(node.first)
    numbers = table.attributes["values"][step - node.attributes["first"]]
    inputs = [copier.values[like] for like in table.operands]
    copier.stand_for(node, outer.add_like(node, CONSTANTS, inputs, {"values": numbers}, names=node.names))


def _at(path: Path, variable: str, step: int) -> Path:
    """A path in one iteration."""
    return tuple(
        (
            segment.text({variable: step})
            if isinstance(segment, Index) and segment.variable == variable
            else segment
        )
        for segment in path
    )
