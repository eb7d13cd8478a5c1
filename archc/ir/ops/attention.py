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


_SPOKEN = {"q": "queries", "k": "keys", "v": "values"}


def _attend_type(call: Any) -> TensorType:
    demand_heads(call, "q", "k", "v")
    if call.k.shape[2] != call.v.shape[2]:
        keys, values = shape_text(call.k.shape), shape_text(call.v.shape)
        raise TypeMistake(f"keys {keys} and values {values} differ in heads", "k", "v")
    demand_sight(call)
    heads = call.q.shape[2]
    if call.sinks is not None and call.sinks.shape != (heads,):
        raise TypeMistake(f"`sinks` must be one for each of {heads} query heads, not {call.sinks}", "sinks")
    type_: TensorType = call.q.with_width(call.v.width)
    return type_


def demand_heads(call: Any, *operands: str) -> None:
    """Raise `TypeMistake` unless queries, keys and perhaps values are heads that fit one another."""
    given = {name: getattr(call, name) for name in operands}
    for name, type_ in given.items():
        if len(type_.shape) != 4:
            hint = "`split_heads` makes them" if len(type_.shape) == 3 else ""
            raise TypeMistake(f"`{name}` must be [B, T, heads, head_dim], not {type_}", name, hint=hint)
    if len({type_.dtype for type_ in given.values()}) > 1:
        names, dtypes = (_SPOKEN[name] for name in operands), (each.dtype.value for each in given.values())
        text = f"{_listed(*names)} must have one dtype, not {_listed(*dtypes)}"
        raise TypeMistake(text, *operands, hint="`cast_like` takes a tensor back to the dtype of another")
    q, k = call.q.shape, call.k.shape
    if q[3] != k[3]:
        raise TypeMistake(f"queries {shape_text(q)} and keys {shape_text(k)} differ in head_dim", "q", "k")
    if q[2] % k[2]:
        raise TypeMistake(f"{q[2]} query heads are not divisible by {k[2]} key and value heads", "q", "k")


def _listed(*words: str) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}"


def demand_sight(call: Any) -> None:
    """Raise `TypeMistake` unless positions, a bias and chosen keys are those of queries and keys."""
    demand_positions(call.positions, call.q)
    if call.bias is not None:
        _demand_bias(call)
    if call.among is not None:
        _demand_places(call)


def _demand_bias(call: Any) -> None:
    """Raise `TypeMistake` unless a number is added for each query and key, or one for several of them."""
    wanted = (call.q.shape[0], call.q.shape[2], call.q.shape[1], call.key_positions.shape[1])
    bias = call.bias
    fits = len(bias.shape) == 4 and all(
        dim in (1, size) for dim, size in zip(bias.shape, wanted, strict=True)
    )
    if not (fits and bias.dtype.is_floating):
        hint = "`pairs` gives the positions of queries and keys so that they broadcast"
        if bias.shape[:2] == (wanted[0], wanted[2]):
            hint = "`pair_bias` makes numbers [B, T, T, heads] of each pair of tokens a bias"
        raise TypeMistake(f"`bias` must be floating, {shape_text(wanted)}, not {bias}", "bias", hint=hint)


def _demand_places(call: Any) -> None:
    """Raise `TypeMistake` unless `among` are places of keys of each query, and all keys have their places."""
    places, heads = call.among, call.q.shape[2]
    of_queries = places.shape[:2] == call.q.shape[:2] and len(places.shape) in (3, 4)
    if places.dtype is not DType.I64 or not of_queries:
        hint = "`chosen_keys` and `best_keys` choose them"
        raise TypeMistake(
            f"needs places of keys [B, T, count] for {call.q}, not {places}", "among", hint=hint
        )
    if len(places.shape) == 4 and heads % places.shape[2]:
        text = f"{heads} query heads are not divisible by {places.shape[2]} choices of keys"
        raise TypeMistake(text, "q", "among")
    demand_all_keys(call, "among")


def demand_all_keys(call: Any, operand: str) -> None:
    """Raise `TypeMistake` where a mask's cache keeps some keys alone, so that places of keys mean nothing."""
    if call.mask.reach is not None:
        text = f"keys are chosen among all earlier ones, not among those of `{call.mask}`"
        raise TypeMistake(text, operand, hint="give it `mask = causal`")


def _attend_flops(call: Any) -> int:
    """Two products for each key that a query sees: with the query, and of its weight with the value."""
    batch, queries, heads, width = map(int, call.q.shape)
    pairs: int = min(call.mask.pairs(queries, int(call.k.shape[1])), queries * most_keys(call))
    return 2 * batch * heads * pairs * (width + int(call.v.width))


def most_keys(call: Any) -> int:
    """How many keys a query sees at most."""
    return int(call.k.shape[1] if call.among is None else call.among.width)


def _attend_reads(call: Any) -> dict[str, int]:
    keys = int(call.k.shape[1])
    queries = int(call.q.shape[1])
    span: int = min(call.mask.span(queries, keys), queries * most_keys(call))
    return {name: int(getattr(call, name).numel()) // keys * span for name in ("k", "v")}


# A query that sees no key (a padding token) is let see all: its output is never read, but must be finite.
@declare(
    infer=_attend_type,
    traits=(Trait.MATRIX,),
    past=("k", "v"),
    reach=lambda attributes: attributes["mask"].reach,
    flops=_attend_flops,
    reads=_attend_reads,
    saves=("q", "k", "v", "bias", "result"),
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

    `among` [B, T, count] are places of keys, of which each query sees no others; -1 is none.  Where it is
    [B, T, choosers, count], each choice is that of heads/choosers query heads.
    """
    shared = q.shape[2] // k.shape[2]
    k, v = (heads.repeat_interleave(shared, dim=2) for heads in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    query = positions[:, None, :, None]
    key = key_positions[:, None, None, :]
    visible = (key >= 0).expand(-1, -1, q.shape[1], -1)
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
    visible = visible | ~visible.any(-1, keepdim=True)
    scores = scores.masked_fill(~visible, float("-inf"))
    if sinks is not None:
        column = sinks[:, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], -1)
    weights = torch.softmax(scores, -1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    if sinks is not None:
        weights = weights[..., :-1]
    return torch.einsum("bhts,bshd->bthd", weights, v)
