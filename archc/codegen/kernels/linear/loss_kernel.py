"""The plan for the loss: cross entropy over a linear map's logits, a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Iterable

from archc.codegen.kernels.fused import power_of_two
from archc.codegen.kernels.linear.loss_plan import LossKernel
from archc.codegen.modules.head import Cut
from archc.ir.names import unique
from archc.target import Target

_MAX_BLOCK, _MAX_DEPTH = 4096, 4
_RAGGED_DEPTH = 2  # of rows that no vector of numbers lies aligned in: registers for an address of each
_VECTOR = 8  # numbers of half precision in the widest access
_CHUNK = 1 << 29  # logits of a chunk, 1 GiB in bfloat16: few enough to spare memory, enough for fast matmuls
_LEAST_ROWS = 1024
_WIDE = 2  # times as large as a number is one of a sum over chunks
_ROW_STEP = 128  # rows of a matmul's tile


def plan_loss(cut: Cut, taken: Iterable[str], target: Target) -> LossKernel:
    """The loss of a language model with a head; `taken` are names of the other kernels."""
    vocabulary, width = cut.weight_shape
    names = set(taken)
    name = unique("linear_cross_entropy", names)
    block = min(power_of_two(vocabulary), _MAX_BLOCK)
    deepest = _RAGGED_DEPTH if vocabulary % _VECTOR else _MAX_DEPTH
    rows = max(_CHUNK // vocabulary // _ROW_STEP * _ROW_STEP, _LEAST_ROWS)
    return LossKernel(
        name=name,
        log_probs=unique("linear_log_probs", names),
        vocabulary=vocabulary,
        width=width,
        block=block,
        depth=min(power_of_two(-(-vocabulary // block)), deepest),
        warps=min(max(block // 256, 1), 16),
        rows=rows,
        rows_at_once=rows if cut.tail else max(rows, _WIDE * width),
        triton="loss" in target.families,
        bias=cut.bias is not None,
        tail=cut.tail is not None,
    )
