"""What experts are loaded with: counted, averaged, held below a capacity."""

from typing import Any, Literal

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import OPS, Trait, declare
from archc.ir.ops.common import float_type
from archc.ir.types import DType, TensorType, TypeMistake


def _loads_type(call: Any) -> TensorType:
    scores = float_type(call, "scores")
    if call.chosen.dtype is not DType.I64 or call.chosen.shape[:-1] != scores.shape[:-1]:
        raise TypeMistake(f"needs whole numbers for each row of {scores}, not {call.chosen}", "chosen")
    return scores


@declare(infer=_loads_type, traits=(Trait.PER_TOKEN,))
def loads(chosen: Tensor, scores: Tensor) -> Tensor:
    """How many of a token's choices fall on each expert, in the scores' dtype."""
    places = torch.arange(scores.shape[-1], device=chosen.device)
    return (chosen[..., None] == places).sum(-2).to(scores.dtype)


def _average_type(call: Any) -> TensorType:
    x = float_type(call)
    if len(x.shape) < 2 or call.key_positions.dtype is not DType.I64:
        raise TypeMistake(f"needs values of tokens [B, T, ...], and their positions, not {x}", "x")
    kept = x.shape[2:] if call.over == "batch" else (x.shape[0], *x.shape[2:])
    return TensorType(kept, DType.F32)


@declare(infer=_average_type)
def average(x: Tensor, key_positions: Tensor, *, over: Literal["batch", "sequence"]) -> Tensor:
    """The mean over tokens that are not padding, in float32: [B, T, ...] -> [...], by sequence [B, ...]."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    padding = (key_positions < 0).expand(x.shape[:2]).view(*x.shape[:2], *[1] * (x.dim() - 2))
    dims = (0, 1) if over == "batch" else (1,)
    return wide.masked_fill(padding, 0.0).sum(dims) / (~padding).sum(dims).clamp(min=1)


def _within_type(call: Any) -> TensorType:
    weights = choice_weights(call)
    if call.so_far.dtype is not DType.I64 or call.so_far.shape[2:] != weights.shape[2:]:
        raise TypeMistake(f"needs experts' numbers as {call.chosen}, not {call.so_far}", "so_far")
    return weights


def choice_weights(call: Any) -> TensorType:
    """The type of weights of choices, each of which is an expert's number."""
    weights = float_type(call, "weights")
    if call.chosen.dtype is not DType.I64 or call.chosen.shape != weights.shape or len(weights.shape) != 3:
        raise TypeMistake(f"needs an expert's number for each of {weights}, not {call.chosen}", "chosen")
    return weights


@declare(infer=_within_type, past=("so_far",))
def within(
    weights: Tensor,
    chosen: Tensor,
    so_far: Tensor,
    positions: Tensor,
    key_positions: Tensor,
    *,
    count: Width,
    capacity: Width,
) -> Tensor:
    """The weights of choices [B, T, choices], 0 where `capacity` earlier tokens chose the same expert.

    `so_far` is what all tokens of the sequence have chosen so far: [B, S, choices].
    """
    real = (key_positions >= 0)[..., None]
    if chosen.shape[1] == 1:
        before = real & (key_positions < positions)[..., None]
        same = so_far[:, :, None] == chosen[..., None]
        earlier = (same & before[..., None]).sum((1, 3))[:, None]
    else:
        loads = (so_far[..., None] == torch.arange(count, device=chosen.device)).sum(2) * real
        earlier = (loads.cumsum(1) - loads)[:, -chosen.shape[1] :].gather(-1, chosen.clamp(min=0))
    return weights.masked_fill((earlier >= capacity) & (chosen >= 0), 0.0)


@declare(infer=lambda call: float_type(call, "weights"), past=("so_far",), internal=True, module="kernels")
def within_capacity(
    weights: Tensor,
    so_far: Tensor,
    positions: Tensor,
    key_positions: Tensor,
    *,
    count: Width,
    capacity: Width,
) -> Tensor:
    """`within` of the last tokens of `so_far`, which are those that have weights."""
    chosen = so_far[:, -weights.shape[1] :]
    kept: Tensor = within(weights, chosen, so_far, positions, key_positions, count=count, capacity=capacity)
    return kept


AVERAGE, WITHIN, WITHIN_CAPACITY = OPS["average"], OPS["within"], OPS["within_capacity"]
