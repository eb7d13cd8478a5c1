"""Attention: which keys a query sees, and the weighted sum over them."""

from dataclasses import dataclass
from typing import Any, ClassVar

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import declare
from archc.ir.records import Record, record
from archc.ir.types import TensorType, TypeMistake, shape_text


class Mask(Record):
    """Which keys a query sees, by their positions.

    `causal`: none later than its own; `reach`: no more than so many of them, None for any number.
    """

    causal: ClassVar[bool] = True

    @property
    def reach(self) -> int | None:
        return None


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

    @property
    def reach(self) -> int:
        return self.window


@record
@dataclass(frozen=True)
class Chunked(Mask):
    """Keys up to the query's own, of its own chunk of `chunk` positions."""

    chunk: Width

    @property
    def reach(self) -> int:
        return self.chunk


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
    if call.sinks is not None and call.sinks.shape != (q[2],):
        raise TypeMistake(f"`sinks` must be one for each of {q[2]} query heads, not {call.sinks}", "sinks")
    type_: TensorType = call.q.with_width(v[3])
    return type_


def _attend_flops(call: Any) -> int:
    """Of the keys that the last query sees: a window or chunk bounds them, causality does not halve them."""
    keys = int(call.k.shape[1])
    queries = int(call.q.numel())
    values = queries // int(call.q.width) * int(call.v.width)
    return 2 * min(keys, call.mask.reach or keys) * (queries + values)


# A query that sees no key (a padding token) is let see all: its output is never read, but must be finite.
@declare(infer=_attend_type, past=("k", "v"), flops=_attend_flops)
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    key_positions: Tensor,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    *,
    mask: Mask,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """softmax(scale * q k^T) v over the keys that the mask lets each query see, the softmax in float32.

    q: [B, T, heads, head_dim] at positions [B, T]; k, v: [B, S, kv_heads, ...] at key_positions [B, S], which
    are -1 for padding, each shared by heads/kv_heads query heads.

    `softcap`: scores s become softcap * tanh(s / softcap), before anything is added or masked.

    `bias` [B, heads, T, S] is added to the scores.

    `sinks` [heads] are scores of one more key, which has no value.
    """
    shared = q.shape[2] // k.shape[2]
    k, v = (heads.repeat_interleave(shared, dim=2) for heads in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    query, key = positions[:, :, None], key_positions[:, None, :]
    visible = (key >= 0).expand(-1, q.shape[1], -1)
    if mask.causal:
        visible = visible & (key <= query)
    if isinstance(mask, Sliding):
        visible = visible & (key > query - mask.window)
    if isinstance(mask, Chunked):
        visible = visible & (key // mask.chunk == query // mask.chunk)
    visible = visible | ~visible.any(-1, keepdim=True)
    scores = scores.masked_fill(~visible[:, None], float("-inf"))
    if sinks is not None:
        column = sinks[:, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], -1)
    weights = torch.softmax(scores, -1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    if sinks is not None:
        weights = weights[..., :-1]
    return torch.einsum("bhts,bshd->bthd", weights, v)
