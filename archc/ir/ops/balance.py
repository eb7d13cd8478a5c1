"""What experts are loaded with: counted, averaged, held below a capacity, evened out in training.

The reference of an op for training alone is what it does otherwise: a package has functions of these names in
its module `losses`, which do more where a loss is computed in training mode.
"""

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
    """How many of a token's choices fall on each of those that have scores, in their dtype."""
    places = torch.arange(scores.shape[-1], device=chosen.device)
    return (chosen[..., None] == places).sum(-2).to(scores.dtype)


def _average_type(call: Any) -> TensorType:
    x = float_type(call)
    if len(x.shape) < 3 or call.key_positions.dtype is not DType.I64:
        raise TypeMistake(f"needs values of tokens [B, T, ...], and their positions, not {x}", "x")
    kept = x.shape[2:] if call.over == "batch" else (x.shape[0], *x.shape[2:])
    return TensorType(kept, DType.F32)


@declare(infer=_average_type)
def average(x: Tensor, key_positions: Tensor, *, over: Literal["batch", "sequence"]) -> Tensor:
    """The mean over tokens but padding, in float32: [B, T, ...] -> [...], or of each sequence [B, ...]."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    padding = (key_positions < 0).expand(x.shape[:2]).view(*x.shape[:2], *[1] * (x.dim() - 2))
    dims = (0, 1) if over == "batch" else (1,)
    return wide.masked_fill(padding, 0.0).sum(dims) / (~padding).sum(dims).clamp(min=1)


def _within_type(call: Any) -> TensorType:
    taken = float_type(call, "taken")
    if call.chosen.dtype is not DType.I64 or len(call.chosen.shape) != 3 or len(taken.shape) != 3:
        raise TypeMistake(f"needs the numbers of experts [B, T, choices], not {call.chosen}", "chosen")
    type_: TensorType = call.chosen.with_dtype(taken.dtype)
    return type_


@declare(infer=_within_type, past=("taken",))
def within(
    chosen: Tensor, taken: Tensor, positions: Tensor, key_positions: Tensor, *, capacity: Width
) -> Tensor:
    """1 for each choice [B, T, choices] of an expert that fewer than `capacity` tokens chose before, else 0.

    `taken` is what each token of the sequence so far loads each expert with: [B, S, count].
    """
    if chosen.shape[1] == 1:
        before = (key_positions >= 0) & (key_positions < positions)
        earlier = taken.masked_fill(~before[..., None], 0.0).sum(1, keepdim=True, dtype=torch.float32)
    else:
        real = taken.masked_fill((key_positions < 0)[..., None], 0.0)
        new = real[:, -chosen.shape[1] :]
        earlier = real.cumsum(1, dtype=torch.float32)[:, -chosen.shape[1] :] - new
    return (earlier.gather(-1, chosen) < capacity).to(taken.dtype)


@declare(infer=float_type, traits=(Trait.PER_TOKEN, Trait.EFFECT))
def jitter(x: Tensor, *, amount: float) -> Tensor:
    """x; where a loss is computed in training, x times a number of its own from 1 - amount to 1 + amount."""
    return x


def _drop_type(call: Any) -> TensorType:
    weights = float_type(call, "weights")
    if call.chosen.dtype is not DType.I64 or call.chosen.shape != weights.shape:
        raise TypeMistake(f"needs an expert's number for each of {weights}, not {call.chosen}", "chosen")
    return weights


@declare(infer=_drop_type, traits=(Trait.PER_TOKEN, Trait.EFFECT))
def drop(weights: Tensor, chosen: Tensor, key_positions: Tensor, *, count: Width, factor: float) -> Tensor:
    """The weights of choices; where a loss is computed in training, 0 for those that an expert cannot take.

    Of each sequence an expert takes `factor` times its even share, all first choices before all second ones.
    """
    return weights


IN_TRAINING = OPS["jitter"], OPS["drop"]
