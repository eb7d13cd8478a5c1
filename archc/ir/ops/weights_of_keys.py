"""Attention taken apart, for weights of keys that are no softmax of one head's scores."""

from typing import Any

from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import Trait, declare
from archc.ir.ops.attention import Chunked, Mask, Sliding
from archc.ir.ops.common import demand_positions, float_type, per_element, row_type
from archc.ir.types import DType, TensorType, TypeMistake


def _demand_heads(call: Any, *operands: str) -> None:
    """Raise `TypeMistake` unless operands are heads of tokens in one dtype, the first's as many or more."""
    for name in operands:
        if len(float_type(call, name).shape) != 4:
            raise TypeMistake(f"must be heads of tokens [B, T, heads, ...], not {getattr(call, name)}", name)
    many, few = (getattr(call, name) for name in operands)
    if many.dtype is not few.dtype:
        hint = "`cast_like` takes a tensor back to the dtype of another"
        raise TypeMistake(f"{many} and {few} must have one dtype", *operands, hint=hint)
    if many.shape[2] % few.shape[2]:
        text = f"{many.shape[2]} heads of queries are not divisible by {few.shape[2]} of keys or values"
        raise TypeMistake(text, *operands)


def _score_type(call: Any) -> TensorType:
    _demand_heads(call, "q", "k")
    if call.q.width != call.k.width:
        raise TypeMistake(f"queries {call.q} and keys {call.k} differ in head_dim", "q", "k")
    type_: TensorType = call.q.with_width(call.key_positions.shape[1])
    return type_.with_dtype(DType.F32) if call.wide else type_


@declare(
    infer=_score_type,
    traits=(Trait.MATRIX,),
    past=("k",),
    flops=lambda call: 2 * int(call.q.numel()) * int(call.k.shape[1]),
    saves=("q", "k"),
)
def score_keys(q: Tensor, k: Tensor, key_positions: Tensor, *, scale: float, wide: bool = False) -> Tensor:
    """scale * q k^T for each query and all keys so far, seen or not: [B, T, heads, S].

    q: [B, T, heads, head_dim]; k: [B, S, kv_heads, head_dim], each shared by heads/kv_heads query heads.

    With `wide` it is computed in float32, and stays so.
    """
    if wide:
        q, k = (heads.to(torch.promote_types(heads.dtype, torch.float32)) for heads in (q, k))
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    return torch.einsum("bthd,bshd->bths", q, k) * scale


def _masked_type(call: Any) -> TensorType:
    scores = float_type(call, "scores")
    demand_positions(call.positions, scores)
    if len(scores.shape) != 4 or scores.width != call.key_positions.shape[1]:
        hint = "`attention_scores` gives them"
        raise TypeMistake(f"needs scores of keys [B, T, heads, S], not {scores}", "scores", hint=hint)
    return scores


# Scores of a query that sees no key, such as one of padding, are finite: their softmax is a number.
@declare(infer=_masked_type, traits=(Trait.PER_TOKEN,), flops=lambda call: int(call.scores.numel()))
def hide_keys(scores: Tensor, positions: Tensor, key_positions: Tensor, *, mask: Mask) -> Tensor:
    """Scores [B, T, heads, S], -infinity for keys that the mask does not let a query see.

    Of a query that sees none they are finite, and so low that e^score is 0.
    """
    query = positions[:, :, None]
    key = key_positions[:, None, :]
    visible = (key >= 0).expand(-1, query.shape[1], -1)
    if mask.causal:
        visible = visible & (key <= query)
    if isinstance(mask, Sliding):
        visible = visible & (key > query - mask.window)
    if isinstance(mask, Chunked):
        visible = visible & (key // mask.chunk == query // mask.chunk)
    hidden = ~visible[:, :, None]
    blind = hidden.all(-1, keepdim=True)
    scores = scores.masked_fill(hidden & ~blind, float("-inf"))
    return scores.masked_fill(blind, -(torch.finfo(scores.dtype).max ** 0.5))


def _sum_type(call: Any) -> TensorType:
    _demand_heads(call, "weights", "v")
    type_: TensorType = call.weights.with_width(call.v.width)
    return type_


@declare(
    infer=_sum_type,
    traits=(Trait.MATRIX,),
    past=("v",),
    flops=lambda call: 2 * int(call.weights.numel()) * int(call.v.width),
    saves=("weights", "v"),
)
def weighted_values(weights: Tensor, v: Tensor) -> Tensor:
    """The sum of weight * value over all keys so far: [B, T, heads, d].

    weights: [B, T, heads, S]; v: [B, S, kv_heads, d], each shared by heads/kv_heads heads of weights.
    """
    v = v.repeat_interleave(weights.shape[2] // v.shape[2], dim=2)
    return torch.einsum("bths,bshd->bthd", weights, v)


@declare(infer=row_type, traits=(Trait.PER_TOKEN,), flops=per_element(1))
def sum_so_far(x: Tensor) -> Tensor:
    """The sum of each value of the last dim and of those before it, in float32."""
    return x.cumsum(-1, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
