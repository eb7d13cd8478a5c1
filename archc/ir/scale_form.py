"""The form of fusions that multiply values by a factor that depends on the token's position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.ir.decomposition import OperandRef, Step, StepRef


@dataclass(frozen=True)
class ScaleForm:
    """The names of two operands: what is multiplied, and what by."""

    x: str
    factor: str


def scale_form(steps: Sequence[Step]) -> ScaleForm | None:
    """The operands of `cast_like(x * factor, x)`; None for any other decomposition."""
    if [step.op.name for step in steps] != ["mul", "cast_like"]:
        return None
    (left, right), (product, like) = (step.inputs for step in steps)
    if not (isinstance(left, OperandRef) and isinstance(right, OperandRef)) or product != StepRef(0):
        return None
    forms = {left: ScaleForm(left.name, right.name), right: ScaleForm(right.name, left.name)}
    return forms.get(like) if isinstance(like, OperandRef) and left != right else None
