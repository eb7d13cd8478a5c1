"""What a fusion of the norm family sums and norms, and which gradients follow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from archc.codegen.kernels.fused import Fused, power_of_two
from archc.codegen.kernels.norms.norm_lines import Gradient, Norm, Row
from archc.ir.decomposition import AttributeVar, OperandRef, StepRef
from archc.ir.norm_form import NormForm


@dataclass(frozen=True)
class NormParts:
    """The parts of a fusion: addends, some of them normed first, their sum, and its norm."""

    fused: Fused

    @cached_property
    def form(self) -> NormForm:
        form = self.fused.rule.norm_form
        assert form is not None
        return form

    @cached_property
    def row(self) -> Row:
        width = self.fused.width(self.form.addends[0].name)
        return Row(width, power_of_two(width))

    @cached_property
    def names(self) -> dict[StepRef, str]:
        return dict(zip(self.fused.rule.outputs, self.fused.rule.output_names, strict=True))

    @cached_property
    def total(self) -> str:
        """The sum, or the only operand."""
        form = self.form
        return self.names[form.total] if form.total else form.addends[0].name

    @cached_property
    def result(self) -> str:
        """What the outer norm makes of the sum."""
        return next(name for ref, name in self.names.items() if ref != self.form.total)

    @cached_property
    def inner(self) -> tuple[Norm, ...]:
        return tuple(self._norm(addend.norm, addend.name) for addend in self.form.inner)

    @cached_property
    def outer(self) -> Norm | None:
        return None if self.form.outer is None else self._norm(self.form.outer, self.total)

    @cached_property
    def weights(self) -> tuple[str, ...]:
        norms = (*self.inner, *([self.outer] if self.outer else []))
        return tuple(name for norm in norms for name in norm.weights)

    @cached_property
    def gradients(self) -> tuple[Gradient, ...]:
        """One for each norm, the outer norm first: its gradient is what comes in for the sum's addends."""
        found, incoming = [], f"d{self.total}"
        if self.outer:
            target = f"d{self.form.plain[0].name}" if self.inner else "dx"
            joins = incoming if self.form.total else ""
            found.append(Gradient(self.outer, f"d{self.result}", joins, target, made=False, ragged=False))
            incoming = target
        for place, norm in enumerate(self.inner):
            made = self.outer is not None or place > 0
            ragged = self.outer is not None and self.outer.centred
            found.append(Gradient(norm, incoming, "", f"d{norm.source}", made, ragged))
        return tuple(found)

    def _norm(self, number: int | None, source: str) -> Norm:
        assert number is not None
        step = self.fused.rule.steps[number]
        operands = zip(step.op.operands, step.inputs, strict=True)
        given = {
            operand.name: ref.name
            for operand, ref in operands
            if isinstance(ref, OperandRef) and ref.name in self.fused.types
        }
        values = {
            name: self.fused.node.attributes[value.name] if isinstance(value, AttributeVar) else value
            for name, value in step.attributes.items()
        }
        return Norm(
            kind=step.op.name,
            source=source,
            weight=given.get("weight", ""),
            bias=given.get("bias", ""),
            offset=float(values["offset"]),
            eps=float(values["eps"]),
            absent=source in self.fused.optional,
        )
