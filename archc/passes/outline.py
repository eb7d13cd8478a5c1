"""Turns some nodes of a graph into one op: a fusion whose decomposition is what they compute."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from archc.errors import Span
from archc.ir.decomposition import OperandRef, Ref, Step, StepRef
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value, stored_in
from archc.ir.op import OPS, Op, Trait
from archc.ir.ops.structure import CONSTANT, WEIGHT
from archc.ir.row_form import RESERVED
from archc.ir.rule import Rule, rule_of
from archc.ir.types import TensorType
from archc.passes.context import Context, place_of
from archc.passes.report import Fired

PARAMETER = OPS["parameter"]
_LONGEST = 16  # characters of a name in a kernel, of which a line has several


@dataclass
class Outline:
    """Some nodes as a decomposition: `operands` are what they read, `outputs` what others read of them.

    A fused node among them is the steps of its own decomposition.

    nodes:        in the order of the graph; no node outside may lie between two of them
    output_name:  for an output without a name in the spec
    operand_name: for an operand without one, by its type; those of norms, maps and fusions have names there,
                  and weights those of checkpoints
    whole_rows:   whether a program must hold a whole row
    """

    graph: Graph
    nodes: Sequence[Node]
    output_name: str
    operand_name: Callable[[TensorType], str]
    whole_rows: bool = False
    operands: dict[Value, str] = field(default_factory=dict)
    outputs: list[Value] = field(default_factory=list)
    _steps: list[Step] = field(default_factory=list)
    _refs: dict[Value, Ref] = field(default_factory=dict)
    _unfolded: list[int] = field(default_factory=list)  # steps that fused nodes stand for

    def rule(self, name: str, span: Span) -> Rule:
        """The decomposition as a fusion rule."""
        for node in self.nodes:
            self._enter(node)
        self.outputs = self.graph.left_by(self.nodes)
        names: dict[Ref, str] = {}
        for value in self.outputs:
            wanted = self.graph.name_of(value) or self.output_name
            names[self._refs[value]] = self._free_name(wanted, names.values())
        self._name_steps(names)
        return Rule(
            name=name,
            operands=tuple(self.operands.values()),
            weights=(),
            attributes=(),
            steps=tuple(self._steps),
            outputs=tuple(self._made(value) for value in self.outputs),
            output_names=tuple(names.values()),
            span=span,
            text="",
            whole_rows=self.whole_rows,
        )

    def _free_name(self, name: str, others: Iterable[str] = ()) -> str:
        """A name for an operand or a result: no other's, nor a kernel's own, nor that of a gradient."""
        taken = [*self.operands.values(), *others, *RESERVED]
        taken += [*(f"d{other}" for other in taken), *(other.removeprefix("d") for other in taken)]
        return unique(name, taken)

    def _enter(self, node: Node) -> None:
        """Add a node's steps."""
        rule = rule_of(node)
        named = rule is not None or node.op.has(Trait.NORM) or node.op.has(Trait.LINEAR)
        operands = [operand.name for operand in node.op.operands] or [""] * len(node.inputs)
        inputs = [
            self._model(value) if operand in node.op.models else self._ref(value, operand if named else "")
            for operand, value in zip(operands, node.inputs, strict=True)
        ]
        if rule is None:
            own = tuple(map(self.graph.name_of, node.outputs))
            results = self._add(node.op, inputs, node.attributes, own)
        else:
            names = iter([step.names for step in rule.steps])

            def apply(op: Op, values: list[Any], attributes: dict[str, Any]) -> Sequence[Ref]:
                self._unfolded.append(len(self._steps))
                return self._add(op, values, attributes, next(names))

            given = zip(rule.inputs, inputs, strict=True)
            results = rule.run(dict(given), node.attributes, apply)
        self._refs.update(zip(node.outputs, results, strict=False))

    def _add(
        self, op: Op, inputs: Sequence[Ref], attributes: Mapping[str, Any], names: tuple[str, ...]
    ) -> Sequence[Ref]:
        self._steps.append(Step(op, tuple(inputs), attributes, names))
        return [StepRef(len(self._steps) - 1, place) for place in range(max(len(names), 1))]

    def _name_steps(self, results: Mapping[Ref, str]) -> None:
        """Give steps that make results the names of these; those of fused nodes keep names that are free."""
        taken = {*self.operands.values(), *results.values()}
        for place, step in enumerate(self._steps):
            own = [results.get(StepRef(place, output), "") for output in range(len(step.names))]
            kept = ["" if name in taken and place in self._unfolded else name for name in step.names]
            names = tuple(one or other for one, other in zip(own, kept, strict=True))
            taken |= {*names}
            self._steps[place] = replace(step, names=names)

    def _model(self, value: Value | None) -> Ref:
        """What stands for a value of which only the dtype is read: any operand of that dtype."""
        if value is not None and value not in self._refs and value not in self.operands:
            dtype = self.graph.type(value).dtype
            others = (*self.operands, *self._read_later())
            value = next((other for other in others if self.graph.type(other).dtype is dtype), value)
        return self._ref(value, "")

    def _read_later(self) -> Iterator[Value]:
        """What nodes read the numbers of, besides operands that there are by now and what they make."""
        inside = {node.id for node in self.nodes}
        for node in self.nodes:
            for name, value in node.named.items():
                outer = value.node not in inside and name not in node.op.models
                if outer and self.graph.node(value).op is not CONSTANT:
                    yield value

    def _made(self, value: Value) -> StepRef:
        ref = self._refs[value]
        assert isinstance(ref, StepRef)
        return ref

    def _ref(self, value: Value | None, called: str) -> Ref:
        """What stands for a value in the decomposition; an operand may be called as it is in the node."""
        if value is None or value in self._refs:
            return None if value is None else self._refs[value]
        if self.graph.node(value).op is CONSTANT:
            return float(self.graph.node(value).attributes["value"])
        if value not in self.operands:
            named = self.graph.name_of(value) or called or self._last_word(value)
            wanted = named or self.operand_name(self.graph.type(value))
            self.operands[value] = self._free_name(wanted)
        return OperandRef(self.operands[value])

    def _last_word(self, value: Value) -> str:
        """What a parameter is called last in checkpoints; nothing where that is no name, or a long one."""
        node = self.graph.node(value)
        source = node.inputs[0] if node.op is PARAMETER else value
        weight = self.graph.node(source) if source is not None else node
        last = stored_in(weight)[0].path[-1] if weight.op is WEIGHT else ""
        word = last.lstrip("_") if isinstance(last, str) else ""
        return word if word.isidentifier() and not keyword.iskeyword(word) and len(word) <= _LONGEST else ""


def replace_by_one(outline: Outline, name: str, place: Node, times: int, context: Context) -> None:
    """Put one op in the place of an outline's nodes, as a fusion of that name, and report it.

    Fusions among the nodes are part of it from then on.
    """
    graph, rule = outline.graph, outline.rule(name, place.written)
    own = tuple(map(graph.name_of, outline.outputs))
    joined = graph.add_like(place, rule.op, list(outline.operands), names=own)
    for old, new in zip(outline.outputs, joined.outputs, strict=True):
        graph.replace_uses(old, new)
    for node in reversed(outline.nodes):
        if rule_of(node) is not None:
            context.report.absorb(node.op.name, place_of(node), times)
        graph.remove(node)
    context.report.fired.append(Fired(rule.name, place_of(place), times, ("fewer_roundings",), place.span))
