"""Plans for the choice of keys."""

from __future__ import annotations

from archc.codegen.kernels.fused import Fused
from archc.codegen.kernels.key_choice.key_choice_plan import KeyChoiceKernel
from archc.ir.types import DType


def plan_key_choice(fused: Fused) -> KeyChoiceKernel:
    """The kernel of a rule of the family `key_choice`."""
    queries, attributes = fused.types["q"], fused.node.attributes
    heads = queries.shape[2]
    assert isinstance(heads, int)
    return KeyChoiceKernel(
        name=fused.name,
        equation=fused.equation,
        layout=fused.layout,
        plain=fused.plain,
        heads=int(heads),
        width=fused.width("q"),
        count=int(attributes["count"]),
        causal=bool(attributes["mask"].causal),
        weights_are_wide=fused.types["weights"].dtype is DType.F32,
    )
