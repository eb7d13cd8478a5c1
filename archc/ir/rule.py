"""Fusions, each defined by its decomposition: at once the pattern, the reference and the documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

from archc.errors import Span
from archc.ir.attention_form import AttentionForm, attention_form
from archc.ir.attributes import Kind
from archc.ir.decomposition import AttributeVar, OperandRef, Ref, Step, StepRef
from archc.ir.family import SPLITS, family_of
from archc.ir.flops import graph_flops, input_reads
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.norm_form import NormForm, norm_form
from archc.ir.op import Attr, Op, Operand, Trait
from archc.ir.ops.structure import CONSTANT
from archc.ir.scale_form import ScaleForm, scale_form
from archc.ir.types import TensorType

Apply: TypeAlias = Callable[[Op, list[Any], dict[str, Any]], Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Rule:
    """A fusion.

    weights:    operands that ops of the decomposition bring; each may be absent
    text:       its definition as written; "" where a pass has put ops together
    whole_rows: whether a program must hold a whole row, as where its operands differ in shape
    """

    name: str
    operands: tuple[str, ...]
    weights: tuple[str, ...]
    attributes: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[StepRef, ...]
    output_names: tuple[str, ...]
    span: Span
    text: str = field(repr=False)
    whole_rows: bool = False

    @cached_property
    def op(self) -> FusedOp:
        """The fused op."""
        return _fused_op(self)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The operands of the fused op, in order."""
        return (*self.operands, *self.weights)

    @cached_property
    def root(self) -> int:
        """The step that a search for the pattern starts from: it reaches the most other steps.

        The first of several, as of a rotation's: a graph has queries before keys, too.
        """
        return max((output.step for output in self.outputs), key=lambda step: len(self.reach(step)))

    def reach(self, step: int) -> set[int]:
        """A step and those it depends on."""
        found = {step}
        for ref in self.steps[step].inputs:
            if isinstance(ref, StepRef):
                found |= self.reach(ref.step)
        return found

    @cached_property
    def family(self) -> str:
        """Which kind of kernel computes it, such as "norm" or "pointwise", or "" for none."""
        return family_of(self)

    @cached_property
    def norm_form(self) -> NormForm | None:
        """What is summed and normed, in a fusion of the family "norm"."""
        return norm_form(self.steps, self.outputs)

    def norms_of(self, rows: Sequence[str]) -> list[str]:
        """The weights of the norms of some addends."""
        inner = self.norm_form.inner if self.norm_form else ()
        steps = [
            self.steps[addend.norm] for addend in inner if addend.norm is not None and addend.name in rows
        ]
        return [ref.name for step in steps for ref in step.inputs[1:] if isinstance(ref, OperandRef)]

    @cached_property
    def attention_form(self) -> AttentionForm | None:
        """Where queries and values come from, in a fusion of the family "attention"."""
        return attention_form(self.steps) if self.steps[-1].op.name == "attend" else None

    @cached_property
    def scale_form(self) -> ScaleForm | None:
        """What is multiplied and what by, in a fusion of the family "position_scale".

        None where a pass has put ops together: nothing says that it multiplies by one number a token.
        """
        return scale_form(self.steps) if self.text else None

    @cached_property
    def optional(self) -> frozenset[str]:
        """Operands that may be absent: every op that reads them can do without."""
        needed = {
            ref.name
            for step in self.steps
            for place, ref in enumerate(step.inputs)
            if isinstance(ref, OperandRef) and (step.op.variadic or not step.op.operands[place].optional)
        }
        return frozenset(self.operands) - needed

    @cached_property
    def parts(self) -> dict[str, int]:
        """Operands that are split into parts of equal width, and into how many."""
        return {
            step.inputs[0].name: step.attributes[SPLITS[step.op.name]]
            for step in self.steps
            if step.op.name in SPLITS and isinstance(step.inputs[0], OperandRef)
        }

    def run(self, operands: Mapping[str, Any], attributes: Mapping[str, Any], apply: Apply) -> list[Any]:
        """The outputs, applying each step's op: to tensors, to types, or to a graph under construction."""
        made: list[Sequence[Any]] = []

        def value(ref: Ref) -> Any:
            if isinstance(ref, StepRef):
                return made[ref.step][ref.output]
            if isinstance(ref, OperandRef):
                return operands.get(ref.name)
            return attributes[ref.name] if isinstance(ref, AttributeVar) else ref

        for step in self.steps:
            given = {
                name: attributes[v.name] if isinstance(v, AttributeVar) else v
                for name, v in step.attributes.items()
            }
            made.append(apply(step.op, [value(ref) for ref in step.inputs], given))
        return [value(output) for output in self.outputs]

    def decompose(self, operands: Mapping[str, TensorType | None], attributes: Mapping[str, Any]) -> Graph:
        """The decomposition as a graph with the operands as inputs."""
        graph = Graph(self.name)
        inputs = {name: graph.add_input(name, type_) for name, type_ in operands.items() if type_ is not None}
        steps = iter(self.steps)

        def apply(op: Op, values: list[Any], given: dict[str, Any]) -> Sequence[Value]:
            names = next(steps).names
            operands = [as_value(graph, value) for value in values]
            return graph.add(op, operands, given, names=names).outputs

        outputs = self.run(inputs, attributes, apply)
        graph.outputs = list(zip(self.output_names, outputs, strict=True))
        return graph


def on_tensors(op: Op, values: list[Any], given: dict[str, Any]) -> Sequence[Any]:
    """Apply a step's op to tensors."""
    result = op.reference(*values, **given)
    return result if isinstance(result, tuple | list) else (result,)


def as_value(graph: Graph, value: Any) -> Value | None:
    """A value of a graph; a number becomes a constant."""
    if isinstance(value, int | float):
        return graph.add(CONSTANT, (), {"value": float(value)}).outputs[0]
    assert value is None or isinstance(value, Value)
    return value


@dataclass(frozen=True, eq=False, kw_only=True)
class FusedOp(Op):
    """The op that a rule makes."""

    rule: Rule

    def __repr__(self) -> str:
        return f"<fused op {self.name}>"


def rule_of(node: Node) -> Rule | None:
    """The rule whose fused op a node is."""
    return node.op.rule if isinstance(node.op, FusedOp) else None


def fused_by(node: Node) -> Rule:
    """The rule of a node that has one."""
    assert isinstance(node.op, FusedOp), node.op.name
    return node.op.rule


def decomposition(graph: Graph, node: Node, sizes: Mapping[str, int] | None = None) -> Graph:
    """A fused node's decomposition for the types of its operands, with `sizes` for symbolic dims if given."""
    rule = fused_by(node)
    types = dict(zip(rule.inputs, graph.input_types(node, sizes), strict=True))
    return rule.decompose(types, node.attributes)


_ANYTHING = Kind("anything", lambda value: value)


def _fused_op(rule: Rule) -> FusedOp:
    operands = [Operand(name, name in rule.optional) for name in rule.operands]
    operands += [Operand(name, True) for name in rule.weights]
    names = [operand.name for operand in operands]

    def reference(*tensors: Any, **attributes: Any) -> Any:
        return tuple(rule.run(dict(zip(names, tensors, strict=True)), attributes, on_tensors))

    @lru_cache(maxsize=16)
    def form_of(types: tuple[TensorType | None, ...], attributes: tuple[Any, ...]) -> Graph:
        given = zip(rule.attributes, attributes, strict=True)
        return rule.decompose(dict(zip(names, types, strict=True)), dict(given))

    def form(call: Any) -> Graph:
        given = vars(call)
        return form_of(tuple(map(given.get, names)), tuple(map(given.get, rule.attributes)))

    def infer(call: Any) -> tuple[TensorType, ...]:
        graph = form(call)
        return tuple(graph.type(value) for _, value in graph.outputs)

    return FusedOp(
        name=rule.name,
        operands=tuple(operands),
        attributes={name: Attr(_ANYTHING) for name in rule.attributes},
        infer=infer,
        reference=reference,
        doc=rule.text,
        internal=True,
        flops=lambda call: graph_flops(form(call)),
        reads=lambda call: input_reads(form(call)),
        past=tuple(name for name in names if any(name in _past_operands(step) for step in rule.steps)),
        traits=_traits(rule),
        module="experts" if rule.family == "experts" else "",
        rule=rule,
    )


def _traits(rule: Rule) -> frozenset[Trait]:
    alike = {Trait.PER_TOKEN} if all(step.op.has(Trait.PER_TOKEN) for step in rule.steps) else set()
    return frozenset(alike | ({Trait.MATRIX} if any(s.op.has(Trait.MATRIX) for s in rule.steps) else set()))


def _past_operands(step: Step) -> list[str]:
    names = [operand.name for operand in step.op.operands]
    return [
        ref.name
        for name, ref in zip(names, step.inputs, strict=False)
        if name in step.op.past and isinstance(ref, OperandRef)
    ]
