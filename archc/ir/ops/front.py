"""Learned tokens that come first in each sequence, before those that a model is given."""

from typing import Any

from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import OPS, Trait, declare
from archc.ir.ops.common import demand_positions
from archc.ir.types import TensorType, TypeMistake


def _front_type(call: Any) -> TensorType:
    x: TensorType = call.x
    if len(x.shape) < 3:
        raise TypeMistake(f"needs values of tokens [B, T, ...], not {x}", "x")
    demand_positions(call.positions, x)
    count, *shape = call.rows.shape or (0,)
    if tuple(shape) != x.shape[2:] or not isinstance(count, int) or call.rows.dtype is not x.dtype:
        wanted = TensorType(("count", *x.shape[2:]), x.dtype)
        raise TypeMistake(f"needs rows {wanted} for {x}, not {call.rows}", "rows", "x")
    return x


# A package puts as many tokens before those that it is given: see `front_of`.
@declare(infer=_front_type, traits=(Trait.PER_TOKEN,))
def in_front(x: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
    """x [B, T, ...], but rows [count, ...] at the first `count` positions of each sequence.

    The model puts as many tokens in front of each sequence, and leaves them out of its results.
    """
    place = positions.clamp(max=rows.shape[0] - 1)
    learned = (positions < rows.shape[0]).view(*positions.shape, *[1] * (x.dim() - 2))
    return torch.where(learned, rows[place], x)


IN_FRONT = OPS["in_front"]
