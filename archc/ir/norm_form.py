"""The form of norm fusions: rows that are summed, some of them normed first, and a norm of the sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.ir.decomposition import OperandRef, Ref, Step, StepRef
from archc.ir.op import Trait


@dataclass(frozen=True)
class Addend:
    """An operand of a sum; `norm` is the step that norms it first, None where it is added as it is."""

    name: str
    norm: int | None


@dataclass(frozen=True)
class NormForm:
    """addends [normed] -> total -> norm; the total is an output, and so is what the norm `outer` makes of it.

    One addend is no sum: `total` is None then, and the operand is what is normed.
    """

    addends: tuple[Addend, ...]
    total: StepRef | None
    outer: int | None

    @property
    def inner(self) -> tuple[Addend, ...]:
        """The addends that are normed."""
        return tuple(addend for addend in self.addends if addend.norm is not None)

    @property
    def plain(self) -> tuple[Addend, ...]:
        """The others."""
        return tuple(addend for addend in self.addends if addend.norm is None)


def norm_form(steps: Sequence[Step], outputs: Sequence[StepRef]) -> NormForm | None:
    """The form of a decomposition, None where it has another."""
    last = len(steps) - 1
    outer = last if steps[last].op.has(Trait.NORM) else None
    source = StepRef(last) if outer is None else steps[last].inputs[0]
    addends = _addends(steps, source)
    total = source if isinstance(source, StepRef) else None
    form = NormForm(tuple(addends or ()), total, outer)
    ends = [total, *([StepRef(outer)] if outer is not None else [])]
    whole = (
        bool(form.plain)
        and len({addend.name for addend in addends or ()}) == len(form.addends)
        and len(steps) == len(form.addends) - 1 + len(form.inner) + (outer is not None)
        and set(outputs) == {end for end in ends if end is not None}
    )
    return form if whole and (outer is not None or form.inner) else None


def _addends(steps: Sequence[Step], ref: Ref) -> list[Addend] | None:
    """What a sum is made of, in the order in which it is added; None where that is something else."""
    if isinstance(ref, OperandRef):
        return [Addend(ref.name, None)]
    if not isinstance(ref, StepRef):
        return None
    step = steps[ref.step]
    if step.op.has(Trait.NORM) and isinstance(step.inputs[0], OperandRef):
        return [Addend(step.inputs[0].name, ref.step)]
    if step.op.name != "add":
        return None
    left, right = (_addends(steps, each) for each in step.inputs)
    return None if left is None or right is None else [*left, *right]
