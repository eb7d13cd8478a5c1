"""What a pass is given besides the graph, and how it iterates over a graph that it changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Op
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


def made_by(graph: Graph, value: Value | None, op: Op) -> Node | None:
    """The node that makes a value, if it is of an op."""
    maker = graph.node(value) if value is not None else None
    return maker if maker is not None and maker.op is op else None


def remaining(graph: Graph, *ops: Op) -> Iterator[Node]:
    """Nodes of ops, each as it is when its turn comes: those before it may have replaced what it reads."""
    for node in graph.nodes():
        if node.op in ops and node.id in graph:
            yield graph.node(node.id)
