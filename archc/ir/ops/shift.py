"""Values of earlier tokens: token shift."""

from typing import Any

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import OPS, declare
from archc.ir.types import TensorType, TypeMistake


def _shift_type(call: Any) -> TensorType:
    x: TensorType = call.x
    if len(x.shape) < 2:
        raise TypeMistake(f"needs values of tokens [B, T, ...], not {x}", "x")
    return x.with_shape(x.shape[0], call.positions.shape[1], *x.shape[2:])


@declare(
    infer=_shift_type,
    past=("x",),
    reach=lambda attributes: attributes["by"] + 1,
    reads=lambda call: {"x": int(_shift_type(call).numel())},
)
def shift(x: Tensor, positions: Tensor, key_positions: Tensor, *, by: Width) -> Tensor:
    """x of the token `by` positions earlier, 0 before the first token: [B, S, ...] -> [B, T, ...]."""
    wanted = positions - by
    if positions.shape[1] == 1:  # what a ring holds is in any order
        there, place = (key_positions == wanted).max(1, keepdim=True)
    else:
        ordered = key_positions.cummax(1).values  # padding has the position before it
        place = torch.searchsorted(ordered, wanted).clamp(max=x.shape[1] - 1)
        real = key_positions[:, -positions.shape[1] :] == positions
        there = real & (key_positions.gather(1, place) == wanted)
    shape = (*place.shape, *[1] * (x.dim() - 2))
    there = (there & (wanted >= 0)).view(shape)
    return torch.take_along_dim(x, place.view(shape), 1).masked_fill(~there, 0)


SHIFT = OPS["shift"]
