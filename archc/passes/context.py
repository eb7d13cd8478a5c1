"""What a pass gets besides the graph."""

from __future__ import annotations

from dataclasses import dataclass, field

from archc.ir.node import Node
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
