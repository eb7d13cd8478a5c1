"""What a pass gets besides the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from archc.ir.graph import Graph, Node
from archc.ir.rule import Rule
from archc.passes.report import Report
from archc.target import Target


@dataclass(frozen=True)
class Context:
    """Rules and target of this compilation, and the report that passes write to."""

    rules: tuple[Rule, ...]
    target: Target
    report: Report = field(default_factory=Report)


def place_of(node: Node) -> str:
    """Where a node stands in the spec, for reports."""
    return node.span.line_reference if node.span else "the compiler's own"


def repeats(root: Graph, times: int = 1) -> Iterator[tuple[Graph, int]]:
    """The root graph and the loop bodies in it, each with how often it runs in one forward pass."""
    yield root, times
    for loop in root.loops():
        for number, body in enumerate(loop.bodies):
            yield from repeats(body, times * loop.attributes["schedule"].count(number))
