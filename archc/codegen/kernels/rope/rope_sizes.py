"""How many warps a rotation has, and how many tokens its gradient has under way."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from archc.codegen.kernels.fused import power_of_two
from archc.codegen.kernels.rope.heads_plan import Heads

_SUMS = 40 * 32  # of norms' weights, that a warp's registers hold beside all else
_THIRD_LANE = 4 * 32  # fewer of them, where a lane beside the pairs has places and masks of its own
_MAX_WARPS = 16
_MAX_STAGED = 12288  # values of a token, of which two are under way


def sizes_of(heads: Sequence[Heads], head_dim: int, over_heads: bool) -> tuple[int, int, int]:
    """Warps there and back, by what is in registers at once, and the tokens under way in the gradient."""
    blocks = {part: part.block * power_of_two(head_dim) for part in heads}
    lanes = [blocks[part] for part in heads if part.turned or part.normed]
    sums = sum(part.block * lane.block for part in heads if part.weight for lane in part.lanes)
    room = _SUMS - _THIRD_LANE * any(len(part.lanes) > 2 for part in heads)
    warps = warps_for(sum(lanes) if over_heads else max(lanes))
    return warps, warps if over_heads else _backward_warps(warps, sums, room), _stages(sum(blocks.values()))


def warps_for(elements: int) -> int:
    """Warps of a program that has so many values in registers at once, a power of two."""
    return max(1, power_of_two(elements) // 1024) if elements <= 4096 else 8 if elements <= 16384 else 16


def _backward_warps(warps: int, sums: int, room: int) -> int:
    """Warps of the gradient, of so many or more: each has room for so many sums for the weights."""
    return max(warps, min(power_of_two(ceil(sums / room)), _MAX_WARPS))


def _stages(values: int) -> int:
    """Two tokens of so many values, or one where shared memory of all chips, or registers, hold no more."""
    return 2 if values <= _MAX_STAGED else 1
