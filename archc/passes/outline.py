"""Nodes of a graph that become one op: what they compute is the decomposition of a fusion of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from archc.errors import Span
from archc.ir.decomposition import OperandRef, Ref, Step, StepRef
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value
from archc.ir.ops.structure import CONSTANT
from archc.ir.rule import Rule
from archc.ir.types import TensorType
from archc.passes.context import Context, place_of
from archc.passes.report import Fired


@dataclass
class Outline:
    """Some nodes as a decomposition: `operands` are what they read, `outputs` what others read of them.

    nodes:        in the order of the graph; none outside of them depends on one and is read by another
    output_name:  for an output that the spec gives no name
    operand_name: for an operand that it gives none, by its type
    """

    graph: Graph
    nodes: Sequence[Node]
    output_name: str
    operand_name: Callable[[TensorType], str]
    operands: dict[Value, str] = field(default_factory=dict)
    outputs: list[Value] = field(default_factory=list)

    def rule(self, name: str, span: Span | None) -> Rule:
        """The decomposition as a fusion rule."""
        assert span is not None
        steps = {node.id: place for place, node in enumerate(self.nodes)}
        made = [
            Step(node.op, tuple(self._refs(node, steps)), node.attributes, self._names(node))
            for node in self.nodes
        ]
        self.outputs = self.graph.left_by(self.nodes)
        names: list[str] = []
        for value in self.outputs:
            wanted = self.graph.name_of(value) or self.output_name
            names.append(unique(wanted, [*self.operands.values(), *names]))
        return Rule(
            name=name,
            operands=tuple(self.operands.values()),
            weights=(),
            attributes=(),
            steps=tuple(made),
            outputs=tuple(StepRef(steps[value.node], value.output) for value in self.outputs),
            output_names=tuple(names),
            span=span,
            text="",
        )

    def _refs(self, node: Node, steps: dict[int, int]) -> Iterable[Ref]:
        for value in node.inputs:
            if value is None:
                yield None
            elif value.node in steps:
                yield StepRef(steps[value.node], value.output)
            elif self.graph.node(value).op is CONSTANT:
                yield float(self.graph.node(value).attributes["value"])
            else:
                yield OperandRef(self._operand(value))

    def _operand(self, value: Value) -> str:
        if value not in self.operands:
            wanted = self.graph.name_of(value) or self.operand_name(self.graph.type(value))
            self.operands[value] = unique(wanted, self.operands.values())
        return self.operands[value]

    def _names(self, node: Node) -> tuple[str, ...]:
        return tuple(self.graph.name_of(value) for value in node.outputs)


def replace_by_one(outline: Outline, name: str, place: Node, times: int, context: Context) -> None:
    """Put one op in the place of an outline's nodes, as a fusion of that name, and report it."""
    graph, rule = outline.graph, outline.rule(name, place.span)
    joined = graph.add_like(place, rule.op, list(outline.operands), names=rule.output_names)
    for old, new in zip(outline.outputs, joined.outputs, strict=True):
        graph.replace_uses(old, new)
    for node in reversed(outline.nodes):
        graph.remove(node)
    context.report.fired.append(Fired(rule.name, place_of(place), times, ("fewer_roundings",), place.span))
