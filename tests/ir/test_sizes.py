"""Sizes as generated code writes them: by the parameters that they follow from, never as another number."""

from __future__ import annotations

import random

import pytest

from archc.ir.sizes import NamedFloat, Size, plain

PARAMETERS = {"D": 12, "HEADS": 6, "KV_HEADS": 3, "GROUPS": 2, "HEAD_DIM": 4}
d, heads, kv_heads, groups, head_dim = (
    Size.named(name, value, rank) for rank, (name, value) in enumerate(PARAMETERS.items())
)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (heads * head_dim, "HEADS * HEAD_DIM"),
        ((heads + 2 * kv_heads) * head_dim, "(HEADS + 2 * KV_HEADS) * HEAD_DIM"),
        (2 * (d * heads + groups * head_dim), "2 * (D * HEADS + GROUPS * HEAD_DIM)"),
        (2 * d * heads // d, "2 * HEADS"),
        (d // heads, "D // HEADS"),
        (d // heads // groups, "D // (HEADS * GROUPS)"),
        (d * heads // groups * groups, "D * HEADS"),
        (heads // kv_heads * head_dim * kv_heads + d, "HEADS * HEAD_DIM + D"),
        ((head_dim * kv_heads) // heads * d + d * groups, "D * KV_HEADS * HEAD_DIM // HEADS + D * GROUPS"),
    ],
)
def test_a_size_is_written_by_its_parameters(size: Size, text: str) -> None:
    assert size.text == text


def test_what_is_no_polynomial_is_a_plain_number() -> None:
    for number in ((d + groups) // groups // 7, d // 5, (d + heads) // kv_heads):
        assert not isinstance(number, Size)


def test_the_text_is_the_value() -> None:
    choose = random.Random(0)
    written = 0
    for _ in range(3000):
        size: int = choose.choice((d, heads, kv_heads, groups, head_dim))
        made: list[int] = [size, 1]
        for _ in range(choose.randrange(1, 8)):
            other = choose.choice((d, heads, kv_heads, groups, head_dim, 2, 3, *made))
            operation = choose.choice(("+", "-", "*", "//", "//"))
            if operation == "//" and (other == 0 or size % other):
                continue
            size = {"+": size + other, "-": size - other, "*": size * other, "//": size // (other or 1)}[
                operation
            ]
            made.append(size)
        if isinstance(size, Size):
            written += "//" in size.text
            assert eval(size.text, dict(PARAMETERS)) == size, size.text
    assert written > 200


def test_plain_numbers_are_of_no_type_of_ours() -> None:
    given = {"sizes": (d, (heads, 3)), "eps": NamedFloat.named("eps", 1e-5), "axis": -1}
    made = plain(given)
    assert made == given
    assert [type(each) for each in (made["sizes"][0], made["sizes"][1][0], made["eps"])] == [int, int, float]
