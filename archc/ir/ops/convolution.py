"""Convolutions over tokens, of which each sees itself and those before it."""

from typing import Any

from archc.ir.attributes import Width
from archc.ir.inits import ZEROS
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import OPS, Weight, declare, option
from archc.ir.ops.common import float_type, known_width
from archc.ir.types import TensorType, TypeMistake


def _conv_type(call: Any) -> TensorType:
    x = float_type(call)
    if len(x.shape) < 3:
        raise TypeMistake(f"needs values of tokens [B, T, ...], not {x}", "x")
    return x.with_shape(x.shape[0], call.positions.shape[1], *x.shape[2:])


def _conv_reads(call: Any) -> dict[str, int]:
    """Of x, the new tokens and those that the first of them reaches back to."""
    tokens, so_far = int(call.positions.shape[1]), int(call.x.shape[1])
    return {"x": int(call.x.numel()) // so_far * min(tokens + int(call.taps) - 1, so_far)}


@declare(
    infer=_conv_type,
    past=("x",),
    reach=lambda attributes: attributes["taps"],
    reads=_conv_reads,
    options={"bias": option(bool, False)},
    weights=(
        Weight("weight", lambda call: (known_width(call.x), 1, call.taps)),
        Weight("bias", lambda call: (known_width(call.x),), ZEROS, when="bias", operand="offset"),
    ),
    flops=lambda call: 2 * int(_conv_type(call).numel()) * int(call.taps),
    saves=("x", "weight"),
)
def causal_conv(
    x: Tensor,
    positions: Tensor,
    key_positions: Tensor,
    weight: Tensor,
    offset: Tensor | None = None,
    *,
    taps: Width,
) -> Tensor:
    """Each value by itself over the last tokens: x [B, S, ..., d], weight [d, 1, taps] -> [B, T, ..., d].

    Before the first token are zeros; padding does not count.  Sums are in float32, or wider where x is.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    factors = weight[:, 0].to(dtype).flip(1)  # for the token itself, then for earlier ones
    back = torch.arange(taps, device=x.device)
    y = torch.zeros((), dtype=dtype, device=x.device) if offset is None else offset.to(dtype)
    if positions.shape[1] == 1:  # what a ring holds is in any order
        wanted = positions - back
        same = (key_positions[:, :, None] == wanted[:, None]) & (wanted >= 0)[:, None]  # [B, S, taps]
        there, place = same.max(1)
        shape = (*place.shape, *[1] * (x.dim() - 2))
        values = torch.take_along_dim(x, place.view(shape), 1).masked_fill(~there.view(shape), 0)
        factors = factors.t().reshape(taps, *[1] * (x.dim() - 3), -1)
        return (y + (values.to(dtype) * factors).sum(1, keepdim=True)).to(x.dtype)
    ordered = key_positions.cummax(1).values  # padding has the position before it
    real = key_positions[:, -positions.shape[1] :] == positions
    for n in range(taps):
        wanted = positions - n
        place = torch.searchsorted(ordered, wanted).clamp(max=x.shape[1] - 1)
        there = real & (wanted >= 0) & (key_positions.gather(1, place) == wanted)
        shape = (*place.shape, *[1] * (x.dim() - 2))
        values = torch.take_along_dim(x, place.view(shape), 1).masked_fill(~there.view(shape), 0)
        y = y + values.to(dtype) * factors[:, n]
    return y.to(x.dtype)


CAUSAL_CONV = OPS["causal_conv"]
