"""The largest value so far: by it, what grows like an exponential is kept within what a float can hold."""

from typing import Any

from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import OPS, declare
from archc.ir.ops.common import float_type
from archc.ir.types import DType, TensorType, TypeMistake


def _maximum_type(call: Any) -> tuple[TensorType, TensorType]:
    x = float_type(call)
    if len(x.shape) < 3 or not all(isinstance(dim, int) for dim in x.shape[2:]):
        raise TypeMistake(f"needs numbers of tokens [B, T, ...], not {x}", "x")
    decay = float_type(call, "log_decay")
    if decay.shape not in (x.shape, x.shape[2:]):
        raise TypeMistake(f"needs the shape of {x}, or that without B and T, not {decay}", "log_decay")
    wide = x.with_dtype(DType.F32)
    return wide, wide


@declare(
    infer=_maximum_type,
    carries=lambda call: call.x.shape[2:],
    flops=lambda call: 5 * int(call.x.numel()),
    saves=("x", "log_decay"),
)
def carry_maximum(
    x: Tensor, positions: Tensor, log_decay: Tensor, state: Tensor | None = None, *, first: float | None
) -> tuple[Tensor, Tensor]:
    """m = max(m + log_decay, x) and, by which e^-m S decays, m_before + log_decay - m; float32.

    Of a sum S = e^log_decay S + e^x v, which may grow beyond any float, e^-m S is kept instead: it decays by
    the second result and adds e^(x - m) v.  `log_decay` is of x's shape [B, T, ...] or that without B and T.

    m starts as `first`; where that is none, the first token has m = x, and the second result is 0.  Where
    `positions` [1 or B, T] are -1, for padding, m stays.  `state` [B, ...] is m after the last call.

    xLSTM, arXiv 2405.04517; RWKV, arXiv 2305.13048.
    """
    # A maximum of differences to running sums, in float64; a decay to nothing must not make them infinite.
    wide = torch.promote_types(x.dtype, torch.float32)
    padding = (positions < 0).view(*positions.shape, *[1] * (x.dim() - 2))
    change = log_decay.double().clamp(min=-1e4).masked_fill(padding, 0.0).expand(x.shape)
    total = change.cumsum(1)
    largest = (x.double() - total).masked_fill(padding, -torch.inf).cummax(1).values
    start = torch.full_like(total[:, :1], -torch.inf if first is None else first)
    if state is not None:
        begins = (positions == 0).any(1).view(-1, *[1] * (x.dim() - 1))
        start = torch.where(begins, start, state[:, None].double())
    reached = torch.cat([start, torch.maximum(largest, start) + total], 1).to(wide)
    before, after = reached[:, :-1], reached[:, 1:]
    m = torch.where(after.isinf(), x, after)
    if state is not None:
        state.copy_(m[:, -1])
    return m, (before + change - m).to(wide).masked_fill(before.isinf(), 0.0)


CARRY_MAXIMUM = OPS["carry_maximum"]
