"""What is found from a sequence's ends: its first or its last token, its tokens in the opposite order."""

from typing import Any

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import declare
from archc.ir.ops.common import demand_positions
from archc.ir.types import TensorType, TypeMistake


def _end_type(call: Any) -> TensorType:
    if len(call.x.shape) < 2:
        raise TypeMistake(f"needs values of tokens [B, T, ...], not {call.x}", "x")
    demand_positions(call.positions, call.x)
    type_: TensorType = call.x.with_shape(call.x.shape[0], *call.x.shape[2:])
    return type_


@declare(infer=_end_type)
def end_of(x: Tensor, positions: Tensor, *, last: bool) -> Tensor:
    """x of the first or the `last` token of each sequence that is not padding: [B, T, ...] -> [B, ...].

    positions: [1 or B, T] as `new_positions` writes them, -1 for padding
    """
    real = (positions >= 0).expand(x.shape[:2]).long()
    if last:
        real = real * torch.arange(1, x.shape[1] + 1, device=x.device)
    return x[torch.arange(len(x), device=x.device), real.argmax(1)]


def _reversed_type(call: Any) -> TensorType:
    _end_type(call)
    type_: TensorType = call.x
    return type_


# Real tokens follow one another: padding is on the left of them or on the right.
@declare(infer=_reversed_type)
def reverse_tokens(x: Tensor, positions: Tensor) -> Tensor:
    """x [B, T, ...] of each sequence's tokens from the last to the first; padding stays where it is.

    positions: [1 or B, T] as `new_positions` writes them, -1 for padding
    """
    real = (positions >= 0).expand(x.shape[:2])
    own = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    first, last = real.long().argmax(1, True), (real * (own + 1)).argmax(1, True)
    place = torch.where(real, first + last - own, own)
    return x[torch.arange(len(x), device=x.device)[:, None], place]


@declare(infer=_reversed_type)
def token_after(x: Tensor, positions: Tensor, *, by: Width) -> Tensor:
    """x of the token `by` positions later, 0 after a sequence's last token: [B, T, ...] -> [B, T, ...].

    positions: [1 or B, T] as `new_positions` writes them, -1 for padding
    """
    real = (positions >= 0).expand(x.shape[:2])
    moved = x.new_zeros(x.shape)
    moved[:, :-by] = x[:, by:]
    known = torch.zeros_like(real)
    known[:, :-by] = real[:, :-by] & real[:, by:]
    return moved.masked_fill(~known.view(*known.shape, *[1] * (x.dim() - 2)), 0)
