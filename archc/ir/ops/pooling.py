"""What stands for a whole sequence: the values of its first or its last token."""

from typing import Any

from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import declare
from archc.ir.ops.common import demand_positions
from archc.ir.types import TensorType, TypeMistake


def _end_type(call: Any) -> TensorType:
    if len(call.x.shape) < 2:
        raise TypeMistake(f"needs values of tokens [B, T, ...], not {call.x}", "x")
    demand_positions(call.positions, call.x, "positions")
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
