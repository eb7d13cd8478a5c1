"""`fuse` declarations -> rules.  A decomposition may call ops and use operators, and nothing else."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from archc.errors import Note, Reporter, Span, did_you_mean
from archc.frontend import mistakes, syntax
from archc.frontend.expressions import TENSOR_OPS
from archc.frontend.limits import MAX_FUSION_STEPS, MAX_FUSION_SUMS
from archc.frontend.resolve import Module
from archc.frontend.values import counted
from archc.ir.decomposition import AttributeVar, OperandRef, Ref, Step, StepRef
from archc.ir.op import OPS, REQUIRED, Op, Trait
from archc.ir.rule import Rule


class _Mistake(Exception):
    """A decomposition that cannot be one; what to report."""

    def __init__(self, span: Span, reason: str, hint: str = ""):
        super().__init__(reason)
        self.span, self.hint = span, hint


def rules_of(module: Module, reporter: Reporter) -> list[Rule]:
    """The fusions that a module defines."""
    rules: list[Rule] = []
    for fuse in module.fusions.values():
        try:
            rules.append(_Builder(fuse).build())
        except _Mistake as mistake:
            reporter.report(
                mistakes.BadDecomposition(mistake.span, name=fuse.name, reason=mistake, hint=mistake.hint)
            )
    return rules


def check_fusion_names(module: Module, standard: Iterable[Rule], reporter: Reporter) -> None:
    """Report fusions that have the name of another one, standard or imported."""
    known = {rule.name: rule.span for rule in standard}
    for each in module.with_imports():
        for fuse in each.fusions.values():
            first = known.setdefault(fuse.name, fuse.span)
            if first is not fuse.span and first.source.name != each.source.name:
                notes = [Note("the first of them is here", first)]
                reporter.report(mistakes.DuplicateName(fuse.span, kind="fusion", name=fuse.name, notes=notes))


class _Builder:
    def __init__(self, fuse: syntax.Fuse):
        self.fuse = fuse
        self.names: dict[str, Ref] = {name: OperandRef(name) for name in fuse.operands}
        self.names.update({name: AttributeVar(name) for name in fuse.attributes})
        self.steps: list[Step] = []
        self.spans: list[Span] = []  # where each step is written
        self.weights: list[str] = []

    def build(self) -> Rule:
        last = self.fuse.body[-1] if self.fuse.body else None
        if not isinstance(last, syntax.Return):
            raise _Mistake(last.span if last else self.fuse.span, "a decomposition ends with `return`")
        for statement in self.fuse.body[:-1]:
            if not isinstance(statement, syntax.Assign):
                raise _Mistake(statement.span, "a decomposition is made of assignments and a `return`")
            self._assign(statement)
        outputs, names = self._outputs(last.results)
        self._check_used(outputs)
        return Rule(
            name=self.fuse.name,
            operands=self.fuse.operands,
            weights=tuple(self.weights),
            attributes=self.fuse.attributes,
            steps=tuple(self.steps),
            outputs=outputs,
            output_names=names,
            span=self.fuse.span,
            text=_text(self.fuse),
        )

    def _outputs(self, results: tuple[syntax.Result, ...]) -> tuple[tuple[StepRef, ...], tuple[str, ...]]:
        outputs: list[StepRef] = []
        names: list[str] = []
        for result in results:
            ref = self._value(result.value)
            if not isinstance(ref, StepRef) or ref in outputs:
                raise _Mistake(result.span, "each result must be computed, and returned once")
            outputs.append(ref)
            names.append(self._output_name(result, ref))
        return tuple(outputs), tuple(names)

    def _check_used(self, outputs: tuple[StepRef, ...]) -> None:
        """Every step must lead to a result, and every operand and attribute to a step."""
        reached = {output.step for output in outputs}
        for place in reversed(range(len(self.steps))):
            if place not in reached:
                raise _Mistake(self.spans[place], "this leads to no result")
            reached |= {ref.step for ref in self.steps[place].inputs if isinstance(ref, StepRef)}
        read = [ref for step in self.steps for ref in (*step.inputs, *step.attributes.values())]
        names = {ref.name for ref in read if isinstance(ref, OperandRef | AttributeVar)}
        for name in (*self.fuse.operands, *self.fuse.attributes):
            if name not in names:
                raise _Mistake(self.fuse.span, f"`{name}` is never used")

    def _output_name(self, result: syntax.Result, ref: StepRef) -> str:
        if result.name:
            return result.name
        if isinstance(result.value, syntax.Name):
            return result.value.name
        names = self.steps[ref.step].names
        return names[ref.output] if ref.output < len(names) else "out"

    def _assign(self, statement: syntax.Assign) -> None:
        targets = [target.name for target in statement.targets]
        only = statement.values[0] if len(statement.values) == 1 else None
        if isinstance(only, syntax.Call):
            step = self._call(only, tuple(targets))
            refs: list[Ref] = [StepRef(step, output) for output in range(len(targets))]
        else:
            refs = [self._value(value) for value in statement.values]
            self._name_step(refs[0], targets[0])
        if len(refs) != len(targets):
            fault = f"{counted(len(targets), 'name')} for {counted(len(refs), 'value')}"
            raise _Mistake(statement.span, fault)
        self.names.update(zip(targets, refs, strict=True))

    def _name_step(self, ref: Ref, name: str) -> None:
        if isinstance(ref, StepRef) and not self.steps[ref.step].names:
            self.steps[ref.step] = replace(self.steps[ref.step], names=(name,))

    def _value(self, expr: syntax.Expr) -> Ref:
        match expr:
            case syntax.Name():
                return self._name(expr)
            case syntax.Literal(value=value) if isinstance(value, int | float) and not isinstance(
                value, bool
            ):
                return float(value)
            case syntax.Unary(operator="-"):
                inner = self._value(expr.operand)
                return -inner if isinstance(inner, float) else self._step(OPS["neg"], (inner,), {}, expr.span)
            case syntax.Binary() if expr.operator in TENSOR_OPS:
                inputs = (self._value(expr.left), self._value(expr.right))
                if all(isinstance(value, float) for value in inputs):
                    raise _Mistake(expr.span, "two numbers are one: write their result")
                return self._step(OPS[TENSOR_OPS[expr.operator]], inputs, {}, expr.span)
            case syntax.Call():
                return StepRef(self._call(expr, ()))
        raise _Mistake(expr.span, "a decomposition may only call ops and use `+ - * /`")

    def _name(self, expr: syntax.Name) -> Ref:
        if expr.name not in self.names:
            raise _Mistake(expr.span, f"unknown name `{expr.name}`", did_you_mean(expr.name, self.names))
        return self.names[expr.name]

    def _step(
        self,
        op: Op,
        inputs: tuple[Ref, ...],
        attributes: dict[str, Any],
        span: Span,
        names: tuple[str, ...] = (),
    ) -> StepRef:
        self.steps.append(Step(op, inputs, attributes, names))
        self.spans.append(span)
        sums = sum(step.op.has(Trait.COMMUTATIVE) for step in self.steps)
        if len(self.steps) > MAX_FUSION_STEPS or sums > MAX_FUSION_SUMS:
            limits = f"{MAX_FUSION_STEPS} steps, {MAX_FUSION_SUMS} of them sums and products"
            raise _Mistake(span, f"a decomposition has at most {limits}")
        return StepRef(len(self.steps) - 1)

    def _call(self, call: syntax.Call, names: tuple[str, ...]) -> int:
        op = self._op(call)
        outputs = _output_count(op)
        if outputs is not None and max(1, len(names)) != outputs:
            raise _Mistake(call.span, f"`{op.name}` has {counted(outputs, 'result')}")
        given = self._arguments(op, call)
        inputs = [self._operand(op, o.name, o.optional, given, call) for o in op.data_operands]
        if op.variadic:
            inputs = [self._value(argument.value) for argument in call.arguments if argument.name is None]
        inputs += [self._weight(op, call, weight.operand_name) for weight in op.weights]
        attributes = {key: self._attribute(op, key, given.get(key), call) for key in op.attributes}
        return self._step(op, tuple(inputs), attributes, call.span, names).step

    def _op(self, call: syntax.Call) -> Op:
        name = call.callee.name if isinstance(call.callee, syntax.Name) else ""
        op = OPS.get(name)
        if op is None or op.internal:
            known = [each.name for each in OPS.values() if not each.internal]
            raise _Mistake(
                call.callee.span, f"only ops can be called, and `{name}` is none", did_you_mean(name, known)
            )
        return op

    def _arguments(self, op: Op, call: syntax.Call) -> dict[str, syntax.Expr]:
        order = [operand.name for operand in op.data_operands] + [*op.attributes]
        given: dict[str, syntax.Expr] = {}
        for place, argument in enumerate(call.arguments):
            if op.variadic and argument.name is None:
                continue
            key = argument.name or (order[place] if place < len(order) else "")
            if not key:
                raise _Mistake(argument.span, f"`{op.name}` takes at most {counted(len(order), 'argument')}")
            if key not in order or key in given:
                hint = "" if key in given else did_you_mean(key, order)
                fault = "is given twice" if key in given else f"is no attribute of `{op.name}`"
                raise _Mistake(argument.span, f"`{key}` {fault}", hint)
            given[key] = argument.value
        return given

    def _operand(
        self, op: Op, name: str, optional: bool, given: dict[str, syntax.Expr], call: syntax.Call
    ) -> Ref:
        if name in given:
            return self._value(given[name])
        if not optional:
            raise _Mistake(call.callee.span, f"`{op.name}` needs `{name}`")
        return None

    def _weight(self, op: Op, call: syntax.Call, operand: str) -> OperandRef:
        """A weight is an operand too: named by `as`, or like the op's own."""
        name = operand
        if call.path is not None:
            prefix = call.path.segments[0]
            if len(call.path.segments) > 1 or not isinstance(prefix, str) or not prefix.isidentifier():
                raise _Mistake(call.path.span, "a weight is named by a single word here")
            name = prefix if operand == "weight" else f"{prefix}_{operand}"
        if name in self.weights or name in self.names:
            raise _Mistake(
                call.span, f"two operands called `{name}`", f"tell them apart: `{op.name}(...) as name`"
            )
        self.weights.append(name)
        return OperandRef(name)

    def _attribute(self, op: Op, key: str, expr: syntax.Expr | None, call: syntax.Call) -> Any:
        attr = op.attributes[key]
        if expr is None:
            if attr.default is REQUIRED:
                raise _Mistake(call.callee.span, f"`{op.name}` needs `{key}`")
            return attr.default
        if isinstance(expr, syntax.Name) and isinstance(self.names.get(expr.name), AttributeVar):
            return self.names[expr.name]
        value = expr.name if isinstance(expr, syntax.Name) else getattr(expr, "value", None)
        try:
            return attr.kind.accept(value)
        except ValueError:
            raise _Mistake(expr.span, f"`{key}` of `{op.name}` must be {attr.kind.expected}") from None


def _output_count(op: Op) -> int | None:
    """How many results an op has, None where that depends on its attributes."""
    annotation = inspect.signature(op.reference).return_annotation
    parts = typing.get_args(annotation) if typing.get_origin(annotation) is tuple else (annotation,)
    return None if Ellipsis in parts else len(parts)


def _text(fuse: syntax.Fuse) -> str:
    """The decomposition as it is written, without its head."""
    lines = fuse.span.source.lines
    last = fuse.body[-1].span.end_line if fuse.body else fuse.span.line
    body = "\n".join(lines[fuse.span.line - 1 : last])
    inner = body[body.index("{") + 1 :].rstrip().removesuffix("}")
    return "\n".join(line.strip() for line in inner.strip().split("\n"))
