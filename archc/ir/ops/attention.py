"""Attention: which keys a query sees, and the weighted sum over them."""

from dataclasses import dataclass
from typing import Any, ClassVar

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import Trait, declare
from archc.ir.ops.common import demand_positions
from archc.ir.records import Record, record
from archc.ir.types import DType, TensorType, TypeMistake, shape_text


class Mask(Record):
    """Which keys a query sees, by their positions.

    `causal`: none later than its own; `reach`: no more than so many of them, None for any number.
    """

    causal: ClassVar[bool] = True

    @property
    def reach(self) -> int | None:
        return None

    def pairs(self, queries: int, keys: int) -> int:
        """Pairs of a query and a key that it sees, for the last `queries` of `keys` tokens."""
        return self._pairs_of_first(keys) - self._pairs_of_first(keys - queries)

    def span(self, queries: int, keys: int) -> int:
        """The keys that one or more of the last `queries` of `keys` tokens see."""
        return min(keys, self._before_first(keys - queries) + queries)

    def _pairs_of_first(self, tokens: int) -> int:
        return tokens * (tokens + 1) // 2

    def _before_first(self, position: int) -> int:
        """The earlier keys that the query at a position sees."""
        return position


@record
@dataclass(frozen=True)
class Causal(Mask):
    """Keys up to the query's own position."""


@record
@dataclass(frozen=True)
class Full(Mask):
    """All keys."""

    causal: ClassVar[bool] = False

    def pairs(self, queries: int, keys: int) -> int:
        return queries * keys

    def span(self, queries: int, keys: int) -> int:
        return keys


@record
@dataclass(frozen=True)
class Sliding(Mask):
    """The last `window` keys, the query's own included."""

    window: Width

    @property
    def reach(self) -> int:
        return self.window

    def _pairs_of_first(self, tokens: int) -> int:
        filling = min(tokens, self.window)
        return filling * (filling + 1) // 2 + (tokens - filling) * self.window

    def _before_first(self, position: int) -> int:
        return min(position, self.window - 1)


@record
@dataclass(frozen=True)
class Chunked(Mask):
    """Keys up to the query's own, of its own chunk of `chunk` positions."""

    chunk: Width

    @property
    def reach(self) -> int:
        return self.chunk

    def _pairs_of_first(self, tokens: int) -> int:
        whole, rest = divmod(tokens, self.chunk)
        return (whole * self.chunk * (self.chunk + 1) + rest * (rest + 1)) // 2

    def _before_first(self, position: int) -> int:
        return position % self.chunk


def _attend_type(call: Any) -> TensorType:
    q, k, v = call.q.shape, call.k.shape, call.v.shape
    for name in ("q", "k", "v"):
        if len(getattr(call, name).shape) != 4:
            raise TypeMistake(f"`{name}` must be [B, T, heads, head_dim], not {getattr(call, name)}", name)
    if not call.q.dtype is call.k.dtype is call.v.dtype:
        dtypes = f"{call.q.dtype.value}, {call.k.dtype.value} and {call.v.dtype.value}"
        hint = "`cast_like` takes a tensor back to the dtype of another"
        raise TypeMistake(
            f"queries, keys and values must have one dtype, not {dtypes}", "q", "k", "v", hint=hint
        )
    if q[3] != k[3]:
        raise TypeMistake(f"queries {shape_text(q)} and keys {shape_text(k)} differ in head_dim", "q", "k")
    if k[2] != v[2]:
        raise TypeMistake(f"keys {shape_text(k)} and values {shape_text(v)} differ in heads", "k", "v")
    if q[2] % k[2]:
        raise TypeMistake(f"{q[2]} query heads are not divisible by {k[2]} key and value heads", "q", "k")
    demand_positions(call.positions, call.q, "positions")
    if call.bias is not None:
        _demand_bias(call)
    if call.sinks is not None and call.sinks.shape != (q[2],):
        raise TypeMistake(f"`sinks` must be one for each of {q[2]} query heads, not {call.sinks}", "sinks")
    if call.among is not None:
        _demand_places(call)
    type_: TensorType = call.q.with_width(v[3])
    return type_


def _demand_bias(call: Any) -> None:
    """Raise `TypeMistake` unless a number is added for each query and key, or one for several of them."""
    wanted = (call.q.shape[0], call.q.shape[2], call.q.shape[1], call.key_positions.shape[1])
    bias = call.bias
    fits = len(bias.shape) == 4 and all(
        dim in (1, size) for dim, size in zip(bias.shape, wanted, strict=True)
    )
    if not (fits and bias.dtype.is_floating):
        hint = "`pairs` gives the positions of queries and keys so that they broadcast"
        raise TypeMistake(f"`bias` must be floating, {shape_text(wanted)}, not {bias}", "bias", hint=hint)


def _demand_places(call: Any) -> None:
    """Raise `TypeMistake` unless `among` are places of keys of each query, and all keys have their places."""
    places = call.among
    if places.dtype is not DType.I64 or places.shape[:-1] != call.q.shape[:2]:
        hint = "`chosen_keys` chooses them"
        raise TypeMistake(
            f"needs places of keys [B, T, count] for {call.q}, not {places}", "among", hint=hint
        )
    demand_all_keys(call, "among")


def demand_all_keys(call: Any, operand: str) -> None:
    """Raise `TypeMistake` where a mask's cache keeps some keys alone, so that places of keys mean nothing."""
    if call.mask.reach is not None:
        text = f"keys are chosen among all earlier ones, not among those of `{call.mask}`"
        raise TypeMistake(text, operand, hint="give it `mask = causal`")


def _attend_flops(call: Any) -> int:
    """Two products for each key that a query sees: with the query, and of its weight with the value."""
    batch, queries, heads, width = map(int, call.q.shape)
    pairs: int = min(call.mask.pairs(queries, int(call.k.shape[1])), queries * _most_keys(call))
    return 2 * batch * heads * pairs * (width + int(call.v.width))


def _most_keys(call: Any) -> int:
    """How many keys a query sees at most."""
    return int(call.k.shape[1] if call.among is None else call.among.width)


def _attend_reads(call: Any) -> dict[str, int]:
    keys = int(call.k.shape[1])
    queries = int(call.q.shape[1])
    span: int = min(call.mask.span(queries, keys), queries * _most_keys(call))
    return {name: int(getattr(call, name).numel()) // keys * span for name in ("k", "v")}


# A query that sees no key (a padding token) is let see all: its output is never read, but must be finite.
@declare(
    infer=_attend_type,
    traits=(Trait.MATRIX,),
    past=("k", "v"),
    reach=lambda attributes: attributes["mask"].reach,
    flops=_attend_flops,
    reads=_attend_reads,
    saves=("q", "k", "v", "result"),
)
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    key_positions: Tensor,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    among: Tensor | None = None,
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

    `among` [B, T, count] are places of keys, of which each query sees no others; -1 is none.
    """
    shared = q.shape[2] // k.shape[2]
    k, v = (heads.repeat_interleave(shared, dim=2) for heads in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    query = positions[:, :, None]
    key = key_positions[:, None, :]
    visible = (key >= 0).expand(-1, q.shape[1], -1)
    if mask.causal:
        visible = visible & (key <= query)
    if isinstance(mask, Sliding):
        visible = visible & (key > query - mask.window)
    if isinstance(mask, Chunked):
        visible = visible & (key // mask.chunk == query // mask.chunk)
    if among is not None:
        place = (among + 1).clamp(max=k.shape[1])  # padding may choose a key that a piece of them lacks
        chosen = visible.new_zeros(*among.shape[:2], k.shape[1] + 1).scatter(-1, place, True)
        visible = visible & chosen[..., 1:]
    visible = visible | ~visible.any(-1, keepdim=True)
    scores = scores.masked_fill(~visible[:, None], float("-inf"))
    if sinks is not None:
        column = sinks[:, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], -1)
    weights = torch.softmax(scores, -1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    if sinks is not None:
        weights = weights[..., :-1]
    return torch.einsum("bhts,bshd->bthd", weights, v)
