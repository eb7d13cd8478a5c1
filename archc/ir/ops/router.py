"""Ops that choose experts: by score, within groups, and what they score.

A router is written with these and with arithmetic: which function makes the scores, what is added to them for
the choice alone, how they are normalised and scaled is said by the spec.
"""

from typing import Any, Literal

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import OPS, Trait, declare
from archc.ir.ops.balance import choice_weights
from archc.ir.ops.common import demand_rows, float_type, known_width
from archc.ir.types import DType, TensorType, TypeMistake, broadcast


def _top_k_types(call: Any) -> tuple[TensorType, ...]:
    scores = float_type(call, "scores")
    if call.k > known_width(scores, "scores"):
        raise TypeMistake(f"{call.k} of {scores} cannot be chosen", "scores")
    values = scores.with_width(call.k)
    return values, values.with_dtype(DType.I64)


@declare(infer=_top_k_types, traits=(Trait.PER_TOKEN,))
def top_k(scores: Tensor, *, k: Width) -> tuple[Tensor, Tensor]:
    """The k largest values of the last dim, largest first, and their places; of equal values the first."""
    if scores.device.type == "cpu" and k < scores.shape[-1] and not torch.compiler.is_compiling():
        values, places = scores.topk(k + 1)  # says nothing of equal ones, but takes a third of the time
        if not (values[..., 1:] == values[..., :-1]).any():
            return values[..., :k], places[..., :k]
    values, places = torch.sort(scores, dim=-1, descending=True, stable=True)
    return values[..., :k], places[..., :k]


def _group_mask_type(call: Any) -> TensorType:
    scores = float_type(call, "scores")
    width = known_width(scores, "scores")
    if width % call.groups:
        raise TypeMistake(f"{scores} does not split into {call.groups} equal groups", "scores")
    if call.keep > call.groups:
        raise TypeMistake(f"{call.keep} of {call.groups} groups cannot be kept", "scores")
    if call.score == "sum_top_two" and width // call.groups < 2:
        raise TypeMistake(f"groups of {scores} have no two scores to sum", "scores")
    return scores


@declare(infer=_group_mask_type, traits=(Trait.PER_TOKEN,))
def group_mask(
    scores: Tensor,
    *,
    groups: Width,
    keep: Width,
    score: Literal["largest", "sum_top_two"],
    fill: Literal["zero", "minus_infinity"],
) -> Tensor:
    """The scores of the `keep` best of equal groups, those of the others filled; of equal groups the first.

    `score` is what a group is judged by: its largest score, or the sum of its two largest.
    """
    grouped = torch.unflatten(scores, -1, (groups, -1))
    best = grouped.amax(-1) if score == "largest" else grouped.topk(2, -1).values.sum(-1)
    kept = torch.sort(best, dim=-1, descending=True, stable=True).indices[..., :keep]
    left_out = torch.ones_like(best, dtype=torch.bool).scatter(-1, kept, False)
    filled = grouped.masked_fill(left_out[..., None], 0.0 if fill == "zero" else float("-inf"))
    return filled.flatten(-2)


def _unless_zero_type(call: Any) -> TensorType:
    choice_weights(call)
    type_: TensorType = call.chosen
    return type_


@declare(infer=_unless_zero_type, traits=(Trait.PER_TOKEN,))
def unless_zero(chosen: Tensor, weights: Tensor) -> Tensor:
    """The numbers of experts, but -1, which is none, for choices whose weight is 0."""
    return chosen.masked_fill(weights == 0, -1)


def _gather_type(call: Any) -> TensorType:
    demand_rows(call.x)
    try:
        if call.index.dtype is not DType.I64 or not call.index.shape or not call.x.shape:
            raise TypeMistake("")
        rows = broadcast(call.x.with_width(1), call.index.with_width(1))
    except TypeMistake:
        raise TypeMistake(
            f"needs whole numbers for each row of {call.x}, not {call.index}", "index"
        ) from None
    type_: TensorType = call.x.with_shape(*rows.shape[:-1], call.index.width)
    return type_


@declare(infer=_gather_type, traits=(Trait.PER_TOKEN,))
def gather(x: Tensor, index: Tensor) -> Tensor:
    """The values of the last dim at places `index`; the dims before broadcast."""
    if x.shape[:-1] == index.shape[:-1]:
        return x.gather(-1, index)
    rank = max(x.dim(), index.dim())
    return x[(None,) * (rank - x.dim())].take_along_dim(index[(None,) * (rank - index.dim())], -1)


UNLESS_ZERO = OPS["unless_zero"]
