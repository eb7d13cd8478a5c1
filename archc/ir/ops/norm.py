"""Ops that look along the last dim: norms, softmax, sums."""

from typing import Any, Literal

from archc.ir.inits import ZEROS, Fill, Init
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import Trait, Weight, declare, option
from archc.ir.ops.common import known_width, per_element, row_type
from archc.ir.types import Dim, DType, TensorType


def _norm_shape(call: Any) -> tuple[Dim, ...]:
    return (known_width(call.x),)


def _norm_start(call: Any) -> Init:
    """The factor starts at 1, whatever the offset."""
    return Fill(1.0 - call.offset)


@declare(
    infer=row_type,
    traits=(Trait.PER_TOKEN, Trait.NORM),
    options={"weight": option(bool, True)},
    weights=(Weight("weight", _norm_shape, _norm_start, when="weight"),),
    flops=per_element(4),
    saves=("x",),
)
def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    eps: float,
    offset: float = 0.0,
    cast: Literal["before", "after"] = "before",
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, over the last dim, in float32.

    With an `offset` the factor is (offset + weight): a weight stored as its distance from 1 starts at 0.

    `cast` says when the result returns to x's dtype: before the weight multiplies it, or after.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if cast == "before":
        normed = normed.to(x.dtype)
    if weight is None:
        return normed.to(x.dtype)
    if offset:
        return (normed * (offset + weight.to(normed.dtype))).to(x.dtype)
    return (normed * weight).to(x.dtype)


@declare(
    infer=row_type,
    traits=(Trait.PER_TOKEN, Trait.NORM),
    options={"weight": option(bool, True), "bias": option(bool, True)},
    weights=(
        Weight("weight", _norm_shape, _norm_start, when="weight"),
        Weight("bias", _norm_shape, ZEROS, when="bias"),
    ),
    flops=per_element(7),
    saves=("x",),
)
def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float, offset: float = 0.0
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last dim, in float32.

    With an `offset` the factor is (offset + weight).
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(-1, keepdim=True)
    normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        normed = normed * (offset + weight.to(wide.dtype) if offset else weight.to(wide.dtype))
    if bias is not None:
        normed = normed + bias.to(wide.dtype)
    return normed.to(x.dtype)


@declare(infer=row_type, traits=(Trait.PER_TOKEN,), flops=per_element(5), saves=("result",))
def softmax(x: Tensor) -> Tensor:
    """e^x / sum(e^x) over the last dim, in float32."""
    return torch.softmax(x, -1, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)


def _reduced_wide(call: Any) -> TensorType:
    return _reduced(call).with_dtype(DType.F32)


def _reduced(call: Any) -> TensorType:
    return row_type(call).with_width(1)


@declare(infer=_reduced, traits=(Trait.PER_TOKEN,), flops=per_element(1))
def sum(x: Tensor) -> Tensor:
    """Sum over the last dim, which stays with length 1."""
    return x.sum(-1, keepdim=True)


@declare(infer=_reduced, traits=(Trait.PER_TOKEN,), flops=per_element(1))
def mean(x: Tensor) -> Tensor:
    """Mean over the last dim, which stays with length 1."""
    return x.mean(-1, keepdim=True)


@declare(infer=_reduced_wide, traits=(Trait.PER_TOKEN,), flops=per_element(4), saves=("x", "result"))
def logsumexp(x: Tensor) -> Tensor:
    """log(sum(e^x)) over the last dim, which stays with length 1, in float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).logsumexp(-1, keepdim=True)
