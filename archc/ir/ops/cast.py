"""Casts, and numbers that are rounded before they are multiplied by."""

from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import Trait, declare
from archc.ir.ops.common import ELEMENTWISE, float_type, per_element
from archc.ir.types import DType


# No kernel has it: what the number is rounded to depends on the dtype that it is run in.
@declare(infer=float_type, traits=(Trait.PER_TOKEN,), flops=per_element(1))
def scaled(x: Tensor, *, by: float) -> Tensor:
    """x * by, where `by` is first rounded to the dtype of x, as a number that a checkpoint holds would be."""
    return x * torch.tensor(by, dtype=x.dtype, device="cpu")


@declare(infer=lambda call: call.x.with_dtype(DType.F32), traits=ELEMENTWISE, triton="{x}")
def upcast(x: Tensor) -> Tensor:
    """x in float32, or unchanged if it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@declare(
    infer=lambda call: call.x.with_dtype(float_type(call, "like").dtype),
    traits=(Trait.PER_TOKEN,),
    models=("like",),
)
def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """x in the dtype of another, floating-point tensor."""
    return x.to(like.dtype)


@declare(
    infer=lambda call: call.x.with_dtype(DType.F32),
    traits=(Trait.PER_TOKEN,),
    models=("like",),
    internal=True,
)
def upcast_like(x: Tensor, like: Tensor) -> Tensor:
    """x in float32, or in the dtype of another tensor where that is wider."""
    return x.to(torch.promote_types(like.dtype, torch.float32))
