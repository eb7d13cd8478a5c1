"""Plans for values times a factor that depends on the token's position, such as a temperature of queries."""

from __future__ import annotations

import math

from archc.codegen.code import Argument
from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.fused import Fused, block_of
from archc.codegen.kernels.rope.position_scale_plan import PositionScaleKernel


def plan_position_scale(fused: Fused) -> PositionScaleKernel:
    """The kernel of a rule of the position_scale family."""
    form = fused.rule.scale_form
    assert form is not None
    width = math.prod(int(dim) for dim in fused.types[form.x].shape[2:])
    block = block_of(width)
    return PositionScaleKernel(
        name=fused.name,
        equation=fused.equation,
        layout=fused.layout,
        op=_custom_op(fused, form.x, form.factor),
        x=form.x,
        factor=form.factor,
        width=width,
        block=block,
        warps=max(1, block // 512),
    )


def _custom_op(fused: Fused, x: str, factor: str) -> CustomOp:
    (output,) = fused.rule.output_names
    return CustomOp(
        operands=fused.operands,
        outputs=(output,),
        fakes=(f"_like({x})",),
        saved=(factor,),
        incoming=(Argument(f"d{output}"), Argument(factor)),
        gradients=(f"d{x}",),
        gradient_fakes=(f"_like(d{output})",),
        returned=tuple(f"d{name}" if name == x else "None" for name in fused.types),
        remembered=(),
        anchor=x,
        plain=fused.plain,
    )
