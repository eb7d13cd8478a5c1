"""The form of fusions of a look at earlier tokens, a convolution or a shift, and elementwise ops after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archc.ir.decomposition import Step, StepRef
from archc.ir.op import Op
from archc.ir.ops.convolution import CAUSAL_CONV
from archc.ir.ops.shift import SHIFT
from archc.ir.row_form import HOST

LOOKS = (CAUSAL_CONV, SHIFT)
# Names of a kernel's own, which no other operand or result may have; nor may gradients, with a d before them.
RESERVED = frozenset("""
    ahead back batch begin blocks channel column conv earlier factor here inside kept key key_positions keys
    later length n new offset own_slot part past place position positions programs ring row runs seen sequence
    slot span start tanh tap tl token tokens total triton weight weight_part x
    """.split()) | HOST  # noqa: SIM905 - a list of this length is easier to read as words


def is_convolution(steps: Sequence[Step], outputs: Sequence[StepRef]) -> bool:
    """Whether a kernel can compute it: one look at earlier tokens, then elementwise ops, with one result."""
    look, *others = steps
    pointwise = all(step.op.is_pointwise for step in others)
    return look.op in LOOKS and pointwise and list(outputs) == [StepRef(len(steps) - 1)]


def offsets(op: Op, attributes: Mapping[str, int]) -> range:
    """How many positions earlier the tokens stand that an op looks at."""
    if op is SHIFT:
        return range(attributes["by"], attributes["by"] + 1)
    return range(attributes["taps"])
