"""What attention adds to its scores for how far apart a query and a key stand."""

import math
from typing import Any, Literal

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import Trait, declare
from archc.ir.ops.common import float_type
from archc.ir.types import DType, TensorType, TypeMistake


def _pairs(call: Any, heads: Any, dtype: DType) -> TensorType:
    batch, queries = call.positions.shape
    return TensorType((batch, heads, queries, call.key_positions.shape[1]), dtype)


def _pairs_types(call: Any) -> tuple[TensorType, TensorType]:
    for operand in (call.positions, call.key_positions):
        if len(operand.shape) != 2:
            raise TypeMistake(f"needs positions [B, T], not {operand}")
    batch, queries = call.positions.shape
    keys = call.key_positions.shape[1]
    return TensorType((batch, 1, queries, 1), DType.I64), TensorType((batch, 1, 1, keys), DType.I64)


@declare(infer=_pairs_types, traits=(Trait.PER_TOKEN,))
def pair_positions(positions: Tensor, key_positions: Tensor) -> tuple[Tensor, Tensor]:
    """Positions so that those of queries and keys broadcast to pairs: [B, 1, T, 1] and [B, 1, 1, S]."""
    return positions[:, None, :, None], key_positions[:, None, None, :]


def _table_bias_type(call: Any) -> TensorType:
    places, table = call.places, float_type(call, "table")
    if places.dtype is not DType.I64 or len(places.shape) != 4 or places.shape[1] != 1:
        raise TypeMistake(f"needs a whole number for each pair, [B, 1, T, S], not {places}", "places")
    if len(table.shape) != 2 or not isinstance(table.width, int):
        raise TypeMistake(f"needs a table [rows, heads], not {table}", "table")
    return TensorType((places.shape[0], table.width, *places.shape[2:]), table.dtype)


@declare(infer=_table_bias_type, traits=(Trait.PER_TOKEN,))
def table_bias(places: Tensor, table: Tensor) -> Tensor:
    """Each pair's row of a table [rows, heads], by its place: [B, 1, T, S] -> [B, heads, T, S].

    A place outside of the table, as padding may have, is that of the first row or the last.
    """
    return table[places[:, 0].clamp(0, table.shape[0] - 1)].permute(0, 3, 1, 2)


def _query_bias_type(call: Any) -> TensorType:
    x = float_type(call, "x")
    if len(x.shape) != 3 or not isinstance(x.width, int):
        raise TypeMistake(f"needs a number for each query and head, [B, T, heads], not {x}", "x")
    return TensorType((x.shape[0], x.width, x.shape[1], 1), x.dtype)


@declare(infer=_query_bias_type, traits=(Trait.PER_TOKEN,))
def query_bias(x: Tensor) -> Tensor:
    """A number of each query and head as a term or a factor of a bias: [B, T, heads] -> [B, heads, T, 1]."""
    return x.transpose(1, 2)[..., None]


def _bias_of_keys_type(call: Any) -> TensorType:
    x = float_type(call, "x")
    if len(x.shape) != 3 or not isinstance(x.width, int):
        raise TypeMistake(f"needs a number for each key and head, [B, S, heads], not {x}", "x")
    return TensorType((x.shape[0], x.width, 1, call.key_positions.shape[1]), x.dtype)


@declare(infer=_bias_of_keys_type, traits=(Trait.VIEW,), past=("x",))
def bias_of_keys(x: Tensor, key_positions: Tensor) -> Tensor:
    """A number of each key and head as a term or a factor of a bias: [B, S, heads] -> [B, heads, 1, S]."""
    return x.transpose(1, 2)[:, :, None]


def _bias_of_pairs_type(call: Any) -> TensorType:
    x: TensorType = call.x
    if len(x.shape) != 4 or not isinstance(x.width, int):
        hint = "`unsqueeze` makes one number of each pair that of one head for all"
        text = f"needs numbers for each query, key and head, [B, T, T, heads], not {x}"
        raise TypeMistake(text, "x", hint=hint)
    batch, queries, given, heads = x.shape
    keys = call.key_positions.shape[1]
    if given != (queries if keys == "S" else keys):  # all tokens so far are those that a call is given
        hint = "`pair_bias(x, k)` is told of keys k of another sequence"
        raise TypeMistake(f"its third dim has {given}, not the keys of {call.key_positions}", "x", hint=hint)
    return x.with_shape(batch, heads, queries, keys)


@declare(infer=_bias_of_pairs_type, traits=(Trait.PER_TOKEN,))
def bias_of_pairs(x: Tensor, key_positions: Tensor) -> Tensor:
    """Numbers of each query, key and head as a term of a bias: [B, T, T, heads] -> [B, heads, T, S]."""
    return x.permute(0, 3, 1, 2)


def _by_query_type(call: Any) -> TensorType:
    bias: TensorType = call.bias
    if len(bias.shape) != 4 or not isinstance(bias.shape[1], int):
        raise TypeMistake(f"needs a bias [B, heads, T, S], not {bias}", "bias")
    batch, heads, queries, keys = bias.shape
    return bias.with_shape(batch, queries, heads, keys)


@declare(infer=_by_query_type, traits=(Trait.PER_TOKEN,))
def by_query(bias: Tensor) -> Tensor:
    """A bias in the order of scores, to add to them or as weights: [B, heads, T, S] -> [B, T, heads, S]."""
    return bias.transpose(1, 2)


# In float32 whatever the model's dtype: at far positions half precision would merge neighbours.
@declare(
    infer=lambda call: _pairs(call, call.heads, DType.F32),
    traits=(Trait.PER_TOKEN, Trait.PAIRWISE),
)
def alibi_bias(positions: Tensor, key_positions: Tensor, *, heads: Width, scale: float = 1.0) -> Tensor:
    """scale * slope * (key position - query position) for each head: [B, heads, T, S].

    ALiBi, Press et al. 2022.  The slopes of n heads, n a power of two, are 2^(-8/n), 2^(-16/n)...; those of
    other numbers are the slopes of the power below, then every second one of the power above.
    """
    whole = 2 ** int(math.log2(heads))
    exponents = [-8 * head / whole for head in range(1, whole + 1)]
    exponents += [-4 * head / whole for head in range(1, 2 * (heads - whole), 2)]
    slopes = scale * 2.0 ** torch.tensor(exponents, dtype=torch.float32, device=positions.device)
    distances = key_positions[:, None, :] - positions[:, :, None]
    return slopes[:, None, None] * distances[:, None]


def _relative_type(call: Any) -> TensorType:
    if len(call.table.shape) != 2 or not isinstance(call.table.shape[0], int):
        raise TypeMistake(f"needs a table [buckets, heads], not {call.table}", "table")
    exact = call.table.shape[0] // (4 if call.bidirectional else 2)
    if exact < 1 or call.distance <= exact:
        buckets = f"{call.table.shape[0]} buckets, {exact} of them for exact distances"
        raise TypeMistake(f"`distance` {call.distance} is too near for {buckets}", "table")
    return _pairs(call, call.table.width, call.table.dtype)


@declare(infer=_relative_type, traits=(Trait.PER_TOKEN, Trait.PAIRWISE))
def relative_bias(
    positions: Tensor, key_positions: Tensor, table: Tensor, *, bidirectional: bool, distance: Width
) -> Tensor:
    """The row of a table [buckets, heads] for how far a key is from its query: [B, heads, T, S] (T5).

    Half of the buckets are for one distance each, the others for ranges that grow up to `distance`; with
    `bidirectional` the second half of all are for later keys, which otherwise count as near.
    """
    buckets = table.shape[0]
    back = positions[:, :, None] - key_positions[:, None, :]
    if bidirectional:
        buckets = buckets // 2
    away = back.abs() if bidirectional else back.clamp(min=0)
    exact = buckets // 2
    growth = torch.log(away.clamp(min=1).float() / exact) / math.log(distance / exact)
    far = (exact + (growth * (buckets - exact)).long()).clamp(max=buckets - 1)
    bucket = torch.where(away < exact, away, far)
    if bidirectional:
        bucket = bucket + (back < 0) * buckets
    return table[bucket].permute(0, 3, 1, 2)


def _distance_type(call: Any) -> TensorType:
    values = float_type(call, "values")
    of_queries = len(values.shape) == 4 and values.shape[:2] == call.positions.shape
    if not (of_queries or len(values.shape) == 2) or not isinstance(values.width, int):
        text = (
            f"needs a value for each distance, [heads, distances] or [B, T, heads, distances], not {values}"
        )
        raise TypeMistake(text, "values")
    return _pairs(call, values.shape[-2], values.dtype)


@declare(infer=_distance_type, traits=(Trait.PER_TOKEN, Trait.PAIRWISE))
def distance_bias(
    positions: Tensor,
    key_positions: Tensor,
    values: Tensor,
    *,
    first: int = 0,
    beyond: Literal["zero", "nearest"] = "zero",
) -> Tensor:
    """The value for how many positions a key is before its query: [B, heads, T, S].

    `values` [heads, distances], or those of each query [B, T, heads, distances], are for the distances from
    `first` on, which are below 0 for later keys; `beyond` is what other distances get.

    By content of the query, arXiv 1803.02155 (Shaw et al. 2018).
    """
    by_query = values[None, :, None] if values.dim() == 2 else values.transpose(1, 2)
    place = (positions[:, :, None] - key_positions[:, None, :] - first)[:, None]
    known = place.clamp(0, values.shape[-1] - 1)
    batch = known.shape[0] if values.dim() == 2 else values.shape[0]
    rows = batch, by_query.shape[1], positions.shape[1]
    bias = by_query.expand(*rows, -1).gather(-1, known.expand(*rows, -1))
    return bias.masked_fill(place != known, 0) if beyond == "zero" else bias


def _of_key_type(call: Any) -> TensorType:
    values = float_type(call, "values")
    if len(values.shape) != 4 or not isinstance(values.width, int):
        text = f"needs a value of each key for each distance, [B, S, heads, distances], not {values}"
        raise TypeMistake(text, "values")
    queries, keys = call.positions.shape[1], call.key_positions.shape[1]
    return TensorType((values.shape[0], values.shape[2], queries, keys), values.dtype)


@declare(infer=_of_key_type, past=("values",), reads=lambda call: {"values": int(_of_key_type(call).numel())})
def key_distance_bias(
    positions: Tensor,
    key_positions: Tensor,
    values: Tensor,
    *,
    first: int = 0,
    beyond: Literal["zero", "nearest"] = "zero",
) -> Tensor:
    """The value that a key has for how many positions it is before the query: [B, heads, T, S].

    `values` [B, S, heads, distances] are for the distances from `first` on, as those of `distance_bias` are.

    By content of the key, arXiv 2006.03654 (He et al. 2021).
    """
    place = positions[:, :, None] - key_positions[:, None, :] - first
    known = place.clamp(0, values.shape[-1] - 1)[:, None]
    by_key = values.permute(0, 2, 3, 1)  # [B, heads, distances, S]
    bias = by_key.gather(2, known.expand(*by_key.shape[:2], *known.shape[2:]))
    return bias.masked_fill(place[:, None] != known, 0) if beyond == "zero" else bias
