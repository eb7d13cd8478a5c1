"""What attention means, by hand and by transformers' own functions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

from archc.ir.ops.attention import Causal, Chunked, Full, Mask, Sliding, attend
from archc.ir.ops.attention_bias import alibi_bias, distance_bias, query_bias, relative_bias, table_bias
from archc.ir.ops.attention_total import log_total
from archc.ir.ops.key_choice import rank_keys
from archc.ir.ops.weights_of_keys import hide_keys, score_keys, sum_so_far, weighted_values

TOKENS = 40
POSITIONS = torch.arange(TOKENS)[None]


def heads(count: int, width: int) -> Tensor:
    return torch.randn(2, TOKENS, count, width, dtype=torch.float64)


def weights_of(mask: Mask) -> Tensor:
    """Which keys each query sees, read off equal scores and values that say which key they are."""
    q = torch.zeros(1, TOKENS, 1, 2, dtype=torch.float64)
    v = torch.eye(TOKENS, dtype=torch.float64)[None, :, None]
    return attend(q, q, v, POSITIONS, POSITIONS, mask=mask, scale=1.0)[0, :, 0] > 0


@pytest.mark.parametrize(
    ("mask", "seen"),
    [
        (Causal(), lambda q, k: k <= q),
        (Full(), lambda q, k: min(q, k) >= 0),
        (Sliding(1), lambda q, k: k == q),
        (Sliding(7), lambda q, k: q - 6 <= k <= q),
        (Sliding(TOKENS), lambda q, k: k <= q),
        (Chunked(1), lambda q, k: k == q),
        (Chunked(8), lambda q, k: q // 8 * 8 <= k <= q),
    ],
    ids=lambda value: str(value) if isinstance(value, Mask) else "",
)
def test_masks_let_see_exactly(mask: Mask, seen: object) -> None:
    assert callable(seen)
    expected = [[bool(seen(q, k)) for k in range(TOKENS)] for q in range(TOKENS)]
    assert weights_of(mask).tolist() == expected


@pytest.mark.parametrize("mask", [Causal(), Full(), Sliding(7), Chunked(8)], ids=str)
def test_attention_taken_apart_is_attention(mask: Mask) -> None:
    q, k, v = heads(4, 8), heads(2, 8), heads(2, 6)
    keys = torch.where(POSITIONS < 5, -1, POSITIONS)  # padding on the left
    scores = hide_keys(score_keys(q, k, keys, scale=0.3), POSITIONS, keys, mask=mask)
    expected = attend(q, k, v, POSITIONS, keys, mask=mask, scale=0.3)
    found = weighted_values(scores.softmax(-1), v)
    torch.testing.assert_close(found[:, 5:], expected[:, 5:])
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_what_sees_no_key_has_no_weight_and_a_softmax(dtype: torch.dtype) -> None:
    """Keys before a query's own: of the first token's there are none, and none of later ones either."""
    scores = torch.zeros(2, TOKENS, 3, TOKENS, dtype=dtype)
    scores = hide_keys(scores, POSITIONS - 1, POSITIONS, mask=Causal())
    assert torch.equal(scores.exp()[0, :, 0], torch.ones(TOKENS, TOKENS, dtype=dtype).tril(-1))
    assert bool(scores.softmax(-1).isfinite().all())


@pytest.mark.parametrize("mask", [Causal(), Full(), Sliding(7), Chunked(8)], ids=str)
def test_totals_are_what_softmax_divides_by(mask: Mask) -> None:
    q, k, v = heads(4, 8), heads(2, 8), heads(2, 6)
    keys = torch.where(POSITIONS < 5, -1, POSITIONS)
    among = torch.randint(5, TOKENS, (2, TOKENS, 2, 12)) if mask.reach is None else None
    total = log_total(q, k, POSITIONS, keys, None, among, mask=mask, scale=0.3, softcap=2.0)
    o = attend(q, k, v, POSITIONS, keys, among=among, mask=mask, scale=0.3, softcap=2.0)
    sinks = torch.zeros(4, dtype=torch.float64)
    with_sinks = attend(q, k, v, POSITIONS, keys, None, sinks, among, mask=mask, scale=0.3, softcap=2.0)
    seeing = total > -1e30
    share = total.sigmoid()[..., None]  # of its keys, beside a sink of score 0
    torch.testing.assert_close((o * share)[seeing], with_sinks[seeing])
    assert bool(seeing[:, :5].any()) != mask.causal


def test_heads_choose_for_themselves() -> None:
    q, k, v, among = heads(4, 8), heads(2, 8), heads(2, 6), torch.randint(-1, TOKENS, (2, TOKENS, 2, 9))
    o = attend(q, k, v, POSITIONS, POSITIONS, among=among, mask=Full(), scale=0.3)
    for choice in range(2):
        own = slice(2 * choice, 2 * choice + 2)
        one = attend(
            q[:, :, own], k[:, :, [choice]], v[:, :, [choice]], POSITIONS, POSITIONS,
            among=among[:, :, choice], mask=Full(), scale=0.3,
        )  # fmt: skip
        torch.testing.assert_close(o[:, :, own], one)


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (1, 1, [3]),
        (3, 1, [1, 3, 5]),  # of equal ones the earlier
        (8, 1, [0, 1, 3, 4, 5, -1, -1, -1]),  # none of padding, none that is hidden
        (1, 3, [0, 1, 3]),  # all keys of a block of positions, padding left out
        (2, 3, [0, 1, 3, 4, 5, 6]),
        (2, 4, [0, 1, 3, 4, 5, 6, -1, -1]),
    ],
)
def test_best_keys_by_hand(count: int, size: int, expected: list[int]) -> None:
    """Keys at places 0 to 6, of which one is padding and the last is hidden; and the same far from 0."""
    hidden = float("-inf")
    scores = torch.tensor([0.5, 2.0, 9.0, 3.0, 1.0, 2.0, hidden]).view(1, 1, 1, 7)
    keys = torch.tensor([[0, 1, -1, 2, 3, 4, 5]])
    far = torch.where(keys < 0, keys, keys + 12_000)
    for positions in (keys, far):
        assert rank_keys(scores, positions, count=count, size=size).flatten().tolist() == expected


def test_sums_so_far_are_in_float32() -> None:
    x = torch.full((1, 1000), 1.0, dtype=torch.bfloat16)  # whose own sums stay at 256
    assert sum_so_far(x)[0, -1] == 1000


def test_scores_are_scaled_then_capped_then_biased_then_masked() -> None:
    q, k, v = heads(2, 8), heads(1, 8), heads(1, 6)
    bias, sinks = torch.randn(2, 2, TOKENS, TOKENS).double(), torch.tensor([0.5, -1.0]).double()
    o = attend(q, k, v, POSITIONS, POSITIONS, bias, sinks, mask=Causal(), scale=0.7, softcap=1.5)
    for head in range(2):
        scores = 1.5 * torch.tanh(q[:, :, head] @ k[:, :, 0].mT * 0.7 / 1.5) + bias[:, head]
        weights = scores.exp().tril()
        total = weights.sum(-1, keepdim=True) + math.exp(sinks[head])
        torch.testing.assert_close(o[:, :, head], weights / total @ v[:, :, 0])


@pytest.mark.parametrize("count", [1, 4, 6, 12, 32])
def test_alibi_is_blooms_but_for_a_constant_of_each_query(count: int) -> None:
    bias = alibi_bias(POSITIONS, POSITIONS, heads=count)
    theirs = build_alibi_tensor(torch.ones(1, TOKENS), count, torch.float32).view(1, count, 1, TOKENS)
    torch.testing.assert_close(bias - bias[..., :1], (theirs - theirs[..., :1]).expand_as(bias))


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 20), (6, 5)])
def test_relative_buckets_are_t5s(both: bool, buckets: int, distance: int) -> None:
    places = torch.arange(3 * distance)[None]
    table = torch.arange(buckets, dtype=torch.float64)[:, None]
    bias = relative_bias(places, places, table, bidirectional=both, distance=distance)
    back = places[0][None, :] - places[0][:, None]
    theirs = T5Attention._relative_position_bucket(back, both, buckets, distance)
    assert torch.equal(bias[0, 0].long(), theirs)


@pytest.mark.parametrize("of_queries", [True, False])
@pytest.mark.parametrize("beyond", ["zero", "nearest"])
def test_a_bias_is_the_value_of_its_distance(of_queries: bool, beyond: str) -> None:
    """Of distances from 2 later to 4 earlier; padding, at -1, stands before the first token."""
    first, count = -2, 7
    values = torch.randn(*(2, TOKENS) * of_queries, 3, count)
    bias = distance_bias(POSITIONS, POSITIONS, values, first=first, beyond=beyond)
    for query, key in ((0, 0), (0, 2), (0, 3), (9, 5), (9, 4), (TOKENS - 1, 0)):
        place = query - key - first
        inside = min(max(place, 0), count - 1)
        row = values[:, query, :, inside] if of_queries else values[None, :, inside]
        wanted = row if beyond == "nearest" or place == inside else torch.zeros_like(row)
        assert torch.equal(bias[:, :, query, key], wanted), (query, key)


def test_a_number_of_each_query_and_a_row_of_each_pair() -> None:
    """Places outside of the table, as padding may have, are those of its first and last rows."""
    table, gate = torch.randn(3, 4), torch.randn(2, 5, 4)
    places = torch.randint(-1, 4, (2, 1, 5, 6))
    bias = query_bias(gate) * table_bias(places, table)
    for b, head, t, s in torch.cartesian_prod(*map(torch.arange, (2, 4, 5, 6))).tolist():
        row = min(max(int(places[b, 0, t, s]), 0), 2)
        assert bias[b, head, t, s] == gate[b, t, head] * table[row, head]
