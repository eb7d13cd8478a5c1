"""Sparse attention: which few keys each query sees, by scores that are cheaper than attention's own."""

from typing import Any

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import OPS, Trait, declare
from archc.ir.ops.attention import Mask, demand_all_keys
from archc.ir.ops.common import float_type
from archc.ir.types import DType, TensorType, TypeMistake


def _select_type(call: Any) -> TensorType:
    for name in ("q", "k"):
        if len(float_type(call, name).shape) != 4:
            raise TypeMistake(f"must be [B, T, heads, head_dim], not {getattr(call, name)}", name)
    q, k = call.q.shape, call.k.shape
    if q[3] != k[3]:
        raise TypeMistake(f"queries {call.q} and keys {call.k} differ in head_dim", "q", "k")
    if k[2] != 1:
        hint = "`split_heads(k, 1)` makes one head"
        raise TypeMistake(f"needs keys of one head, not {call.k}", "k", hint=hint)
    if float_type(call, "weights").shape != q[:3]:
        raise TypeMistake(f"needs a weight of each head of {call.q}, not {call.weights}", "weights")
    demand_all_keys(call, "k")
    return TensorType((*call.positions.shape, call.count), DType.I64)


def _select_flops(call: Any) -> int:
    """A product of a query and a key for each head, and its weighted sum."""
    batch, queries, heads, width = map(int, call.q.shape)
    pairs: int = call.mask.pairs(queries, int(call.k.shape[1]))
    return batch * heads * pairs * (2 * width + 3)


@declare(infer=_select_type, traits=(Trait.MATRIX,), past=("k",), flops=_select_flops)
def select_keys(
    q: Tensor,
    k: Tensor,
    weights: Tensor,
    positions: Tensor,
    key_positions: Tensor,
    *,
    mask: Mask,
    count: Width,
) -> Tensor:
    """The places [B, T, count] of the keys that score best, of those that the mask lets each query see.

    A key's score is the sum over heads of weight * relu(q k), in float32.  q: [B, T, heads, head_dim] at
    positions [B, T], weights: [B, T, heads]; k: [B, S, 1, head_dim] at key_positions [B, S], which are -1 for
    padding.

    The best comes first, and of equal ones the earlier; where a query sees fewer keys, the rest is -1.  No
    gradient flows through a choice.

    The lightning indexer of DeepSeek-V3.2-Exp (DeepSeek-AI 2025).
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    keys = k.detach()[:, :, 0].to(wide).mT
    pieces = [(q.detach(), weights.detach(), positions)]
    if not torch.compiler.is_compiling():  # some queries at a time, so that memory never holds all scores
        at_once = max(2**26 // k.shape[1], 1)
        pieces = list(zip(*(torch.split(x, at_once, 1) for x in pieces[0]), strict=True))
    chosen = []
    for queries, factors, own in pieces:
        scores = torch.zeros((), dtype=wide, device=q.device)
        for query, weight in zip(queries.unbind(2), factors.unbind(2), strict=True):
            scores = scores + weight[..., None] * torch.relu(query.to(wide) @ keys)
        visible = (key_positions >= 0)[:, None]
        if mask.causal:
            visible = visible & (key_positions[:, None] <= own[:, :, None])
        scores = scores.masked_fill(~visible, float("-inf"))
        scores, places = torch.sort(scores, dim=-1, descending=True, stable=True)
        places = places.masked_fill(scores == float("-inf"), -1)
        chosen.append(torch.nn.functional.pad(places, (0, count), value=-1)[..., :count])
    return torch.cat(chosen, 1)


def _rank_type(call: Any) -> TensorType:
    scores = float_type(call, "scores")
    if len(scores.shape) != 4 or scores.width != call.key_positions.shape[1]:
        hint = "`attention_scores` gives them, `masked` hides later ones"
        raise TypeMistake(f"needs scores of keys [B, T, heads, S], not {scores}", "scores", hint=hint)
    return scores.with_width(call.count * call.size).with_dtype(DType.I64)


@declare(infer=_rank_type, traits=(Trait.PER_TOKEN,))
def rank_keys(scores: Tensor, key_positions: Tensor, *, count: Width, size: Width) -> Tensor:
    """The places [B, T, heads, count * size] of the keys in the best `count` blocks of `size` positions.

    A block's score is the highest of its keys' scores [B, T, heads, S], for each query and head; of equal
    ones the earlier is better.  key_positions: [B, S], -1 for padding.

    Blocks of -infinity are not chosen: what is left over is -1.  No gradient flows through a choice.
    """
    tokens = scores.shape[-1]
    real = (key_positions >= 0)[:, None, None]
    block = (key_positions // size)[:, None, None]
    first = block.masked_fill(~real, torch.iinfo(block.dtype).max).amin(-1, keepdim=True)
    block = (block - first).clamp(min=0).expand(scores.shape)  # from the first one on
    highest = scores.new_full((*scores.shape[:-1], tokens // size + 2), float("-inf"))
    highest = highest.scatter_reduce(-1, block, scores.detach().masked_fill(~real, float("-inf")), "amax")
    best, numbers = torch.sort(highest, dim=-1, descending=True, stable=True)
    best, numbers = best[..., :count], numbers[..., :count]
    chosen = torch.zeros_like(highest, dtype=torch.bool).scatter(-1, numbers, best > float("-inf"))
    place = torch.arange(tokens, device=scores.device)
    places = torch.where(chosen.gather(-1, block) & real, place, tokens).sort(-1).values
    places = torch.nn.functional.pad(places, (0, count * size), value=tokens)[..., : count * size]
    return places.masked_fill(places == tokens, -1)


@declare(infer=lambda call: call.places, traits=(Trait.PER_TOKEN,), internal=True)
def each_once(places: Tensor) -> Tensor:
    """Places [B, T, count] in their order; -1, which is none, for one that stands there again."""
    places = torch.sort(places, -1).values
    again = places[..., 1:] == places[..., :-1]
    return torch.cat([places[..., :1], places[..., 1:].masked_fill(again, -1)], -1)


SELECT_KEYS, RANK_KEYS, EACH_ONCE = OPS["select_keys"], OPS["rank_keys"], OPS["each_once"]
