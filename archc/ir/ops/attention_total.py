"""What attention's softmax divides by, with which results over several sets of keys become one softmax's."""

from typing import Any

from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import Trait, declare
from archc.ir.ops.attention import Chunked, Mask, Sliding, demand_heads, demand_sight, most_keys
from archc.ir.types import DType, TensorType


def _total_type(call: Any) -> TensorType:
    demand_heads(call, "q", "k")
    demand_sight(call)
    return TensorType(call.q.shape[:3], DType.F32)


def _total_flops(call: Any) -> int:
    """A product of a query and a key for each pair that it sees."""
    batch, queries, heads, width = map(int, call.q.shape)
    pairs: int = min(call.mask.pairs(queries, int(call.k.shape[1])), queries * most_keys(call))
    return 2 * batch * heads * pairs * width


# Finite where a query sees nothing, so that no result joined with it is lost to it.
@declare(
    infer=_total_type,
    traits=(Trait.MATRIX,),
    past=("k",),
    reach=lambda attributes: attributes["mask"].reach,
    flops=_total_flops,
    saves=("q", "k"),
)
def log_total(
    q: Tensor,
    k: Tensor,
    positions: Tensor,
    key_positions: Tensor,
    bias: Tensor | None = None,
    among: Tensor | None = None,
    *,
    mask: Mask,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """log(sum(e^score)) over the keys that the mask lets each query see, in float32: [B, T, heads].

    The scores are those of `attend`.  Of a query that sees no key it is -1e30.

    q: [B, T, heads, head_dim] at positions [B, T]; k: [B, S, kv_heads, head_dim] at key_positions [B, S],
    which are -1 for padding, each shared by heads/kv_heads query heads.

    `softcap`: scores s become softcap * tanh(s / softcap), before anything is added or masked.

    `bias` [B, heads, T, S] is added to the scores.

    `among` [B, T, count] are places of keys, of which each query sees no others; -1 is none.  Where it is
    [B, T, choosers, count], each choice is that of heads/choosers query heads.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    scores = torch.einsum("bthd,bshd->bhts", q.to(wide), k.to(wide)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    query = positions[:, None, :, None]
    key = key_positions[:, None, None, :]
    visible = key >= 0
    if mask.causal:
        visible = visible & (key <= query)
    if isinstance(mask, Sliding):
        visible = visible & (key > query - mask.window)
    if isinstance(mask, Chunked):
        visible = visible & (key // mask.chunk == query // mask.chunk)
    if among is not None:
        place = (among + 1).clamp(max=k.shape[1])  # padding may choose a key that a piece of them lacks
        place = place.view(*place.shape[:2], -1, place.shape[-1])
        chosen = visible.new_zeros(*place.shape[:3], k.shape[1] + 1).scatter(-1, place, True)
        chosen = chosen[..., 1:].repeat_interleave(q.shape[2] // place.shape[2], dim=2)
        visible = visible & chosen.transpose(1, 2)
    return scores.masked_fill(~visible, -1e30).logsumexp(-1).transpose(1, 2)
