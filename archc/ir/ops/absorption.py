"""Linear maps taken head by head: what attention does with the weights of its keys and values.

With k_h = W_h c a score q_h . k_h is (q_h W_h) . c, and with v_h = W_h c a weighted sum of values is W_h
times the same sum over c: attention can read c in place of every head's keys and values (DeepSeek-AI 2024).
"""

from typing import Any

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import OPS, Trait, declare
from archc.ir.types import TensorType


def _row_parts(call: Any) -> tuple[TensorType, ...]:
    *outer, _, columns = call.weight.shape
    return tuple(call.weight.with_shape(*outer, size, columns) for size in call.sizes)


@declare(infer=_row_parts, traits=(Trait.PER_TOKEN, Trait.SHAPE, Trait.VIEW), internal=True)
def split_rows(weight: Tensor, *, sizes: tuple[Width, ...]) -> tuple[Tensor, ...]:
    """Split a weight by rows: [..., rows, columns]."""
    return torch.split_with_sizes(weight, sizes, -2)


def _head_rows_type(call: Any) -> TensorType:
    rows, columns = call.weight.shape
    type_: TensorType = call.weight.with_shape(call.heads, rows // call.heads, columns)
    return type_


@declare(infer=_head_rows_type, traits=(Trait.PER_TOKEN, Trait.SHAPE, Trait.VIEW), internal=True)
def head_rows(weight: Tensor, *, heads: Width) -> Tensor:
    """A weight's rows by head: [heads * rows, columns] -> [heads, rows, columns]."""
    return torch.unflatten(weight, 0, (heads, -1))


def _flops(call: Any) -> int:
    _, rows, columns = map(int, call.weight.shape)
    return 2 * int(call.x.numel()) * rows * columns // int(call.x.width)


@declare(
    infer=lambda call: call.x.with_width(call.weight.shape[2]),
    traits=(Trait.PER_TOKEN, Trait.MATRIX),
    flops=_flops,
    internal=True,
)
def absorb_keys(x: Tensor, weight: Tensor, *, group: Width) -> Tensor:
    """Queries of what keys are made from: each head's q W.

    x: [B, T, heads, rows]; weight: [kv_heads, rows, columns], shared by `group` heads each.
    """
    if group == 1:
        return torch.einsum("bthr,hrc->bthc", x, weight)
    return torch.einsum("btkgr,krc->btkgc", torch.unflatten(x, 2, (-1, group)), weight).flatten(2, 3)


@declare(
    infer=lambda call: call.x.with_width(call.weight.shape[1]),
    traits=(Trait.PER_TOKEN, Trait.MATRIX),
    flops=_flops,
    internal=True,
    module="kernels",
)
def absorb_values(x: Tensor, weight: Tensor, *, group: Width) -> Tensor:
    """Values from the weighted sum of what they are made from: each head's W x.

    x: [B, T, heads, columns]; weight: [kv_heads, rows, columns], shared by `group` heads each.
    """
    if group == 1:
        return torch.einsum("bthc,hrc->bthr", x, weight)
    return torch.einsum("btkgc,krc->btkgr", torch.unflatten(x, 2, (-1, group)), weight).flatten(2, 3)


ABSORB_VALUES = OPS["absorb_values"]
