"""Attention: which keys a query sees, and the weighted sum over them."""

from dataclasses import dataclass
from typing import Any, ClassVar

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import Trait, declare
from archc.ir.records import Record, record
from archc.ir.types import DType, TensorType, TypeMistake, shape_text


class Mask(Record):
    """Which keys a query sees, by their positions.  `causal`: none later than its own."""

    causal: ClassVar[bool] = True


@record
@dataclass(frozen=True)
class Causal(Mask):
    """Keys up to the query's own position."""


@record
@dataclass(frozen=True)
class Full(Mask):
    """All keys."""

    causal: ClassVar[bool] = False


@record
@dataclass(frozen=True)
class Sliding(Mask):
    """The last `window` keys, the query's own included."""

    window: Width


def _mask_type(call: Any) -> TensorType:
    batch, queries = call.positions.shape
    return TensorType((batch, queries, call.key_positions.shape[1]), DType.BOOL)


# A query that sees no key (a padding token) is let see all: its output is never read, but must be finite.
@declare(infer=_mask_type, traits=(Trait.PER_TOKEN,))
def attention_mask(positions: Tensor, key_positions: Tensor, *, mask: Mask) -> Tensor:
    """True where query t of [B, T] sees key s of [B, S]: bool [B, T, S].  A key at -1 is padding."""
    query, key = positions[:, :, None], key_positions[:, None, :]
    visible = (key >= 0).expand(-1, positions.shape[1], -1)
    if isinstance(mask, Causal):
        visible = visible & (key <= query)
    if isinstance(mask, Sliding):
        visible = visible & (key <= query) & (key > query - mask.window)
    return visible | ~visible.any(-1, keepdim=True)


def _attend_type(call: Any) -> TensorType:
    q, k, v = call.q.shape, call.k.shape, call.v.shape
    for name in ("q", "k", "v"):
        if len(getattr(call, name).shape) != 4:
            raise TypeMistake(f"`{name}` must be [B, T, heads, head_dim], not {getattr(call, name)}", name)
    if q[3] != k[3]:
        raise TypeMistake(f"queries {shape_text(q)} and keys {shape_text(k)} differ in head_dim", "q", "k")
    if k[2] != v[2]:
        raise TypeMistake(f"keys {shape_text(k)} and values {shape_text(v)} differ in heads", "k", "v")
    if q[2] % k[2]:
        raise TypeMistake(f"{q[2]} query heads are not divisible by {k[2]} key and value heads", "q", "k")
    type_: TensorType = call.q.with_width(v[3])
    return type_


def _attend_flops(call: Any) -> int:
    keys = int(call.k.shape[1])
    queries = int(call.q.numel())
    return 2 * keys * (queries + queries // int(call.q.width) * int(call.v.width))


@declare(infer=_attend_type, past=("k", "v"), flops=_attend_flops)
def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, *, scale: float) -> Tensor:
    """softmax(scale * q k^T) v over the visible keys, the softmax in float32.

    q: [B, T, heads, head_dim]; k, v: [B, S, kv_heads, ...], each shared by heads/kv_heads query heads;
    visible: bool [B, T, S].
    """
    shared = q.shape[2] // k.shape[2]
    k, v = (heads.repeat_interleave(shared, dim=2) for heads in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) * scale
    scores = scores.masked_fill(~visible[:, None], float("-inf"))
    weights = torch.softmax(scores, -1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return torch.einsum("bhts,bshd->bthd", weights, v)
