"""The ends of sequences, and their tokens in the opposite order, where some are shorter than others."""

from __future__ import annotations

import pytest
import torch

from archc.ir.ops.pooling import end_of, reverse_tokens, token_after

TOKENS = torch.tensor([[1, 2, 3, 4, 5], [0, 0, 1, 2, 3], [1, 2, 3, 0, 0], [0, 0, 0, 0, 0]])
REAL = TOKENS > 0  # all, padded on the left, on the right, nothing but padding
POSITIONS = torch.where(REAL, TOKENS - 1, -1)


@pytest.mark.parametrize(("last", "expected"), [(False, [1, 1, 1, 0]), (True, [5, 3, 3, 0])])
def test_ends_are_those_of_real_tokens(last: bool, expected: list[int]) -> None:
    assert end_of(TOKENS, POSITIONS, last=last).tolist() == expected
    assert end_of(TOKENS[..., None], POSITIONS, last=last).tolist() == [[number] for number in expected]


def test_reversed_tokens_lie_where_real_ones_do() -> None:
    turned = reverse_tokens(TOKENS, POSITIONS)
    assert turned.tolist() == [[5, 4, 3, 2, 1], [0, 0, 3, 2, 1], [3, 2, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert torch.equal(reverse_tokens(turned, POSITIONS), TOKENS)


def test_positions_may_be_those_of_all_sequences() -> None:
    shared = torch.arange(5)[None]
    assert reverse_tokens(TOKENS, shared).tolist() == TOKENS.flip(1).tolist()
    assert end_of(TOKENS, shared, last=True).tolist() == [5, 3, 0, 0]


@pytest.mark.parametrize("by", [1, 2, 5, 7])
def test_later_tokens_end_with_the_sequence(by: int) -> None:
    expected = torch.where(REAL & (TOKENS + by <= TOKENS.amax(1, keepdim=True)), TOKENS + by, 0)
    assert torch.equal(token_after(TOKENS, POSITIONS, by=by), expected)
    assert torch.equal(token_after(TOKENS[..., None], POSITIONS, by=by)[..., 0], expected)
