"""Values of earlier tokens: token shift, and causal convolutions as sums of shifts."""

from typing import Any

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import declare
from archc.ir.types import TensorType, TypeMistake


def _shift_type(call: Any) -> TensorType:
    x: TensorType = call.x
    if len(x.shape) < 2:
        raise TypeMistake(f"needs values of tokens [B, T, ...], not {x}", "x")
    return x.with_shape(x.shape[0], call.positions.shape[1], *x.shape[2:])


@declare(infer=_shift_type, past=("x",), reach=lambda attributes: attributes["by"] + 1)
def shift(x: Tensor, positions: Tensor, key_positions: Tensor, *, by: Width) -> Tensor:
    """x of the token `by` positions earlier, 0 before the first token: [B, S, ...] -> [B, T, ...]."""
    if positions.shape[1] == 1 and x.shape[1] <= 16:  # the few that a ring holds, in any order
        before = positions - by
        others = (key_positions != before) | (before < 0)  # padding is at -1
        return x.masked_fill(others.view(*others.shape, *[1] * (x.dim() - 2)), 0).sum(1, keepdim=True)
    first, length = positions[:, :1], positions.shape[1] + by
    # These are `length` consecutive positions; `numbers` has the index in x of each one's token, plus 1.
    place = key_positions - first + by
    place = place.where((key_positions >= 0) & (place >= 0) & (place < length), length)
    numbers = torch.arange(1, x.shape[1] + 1, device=x.device).expand_as(place)
    numbers = place.new_zeros(len(place), length + 1).scatter(1, place, numbers)
    number = numbers.gather(1, (positions - first).clamp(0, length).expand(len(numbers), -1))
    number = number.view(*number.shape, *[1] * (x.dim() - 2))
    return torch.take_along_dim(x, (number - 1).clamp(min=0), 1).masked_fill(number == 0, 0)
