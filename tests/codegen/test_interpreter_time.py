"""What is saved of the interpreter's time changes no value."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tests.codegen.interpreter import interpreted


@triton.jit
def _rows_by_operators(x, y, numbers, out):
    """Every operator on operands of the same kinds that differ: itself and another, a number, addresses."""
    places = tl.arange(0, 8)
    for row in range(2):
        a = tl.load(x + row * 8 + places)
        b = tl.load(places + 8 * row + y)
        n = tl.load(numbers + places + 8 * row)
        for c in (a, b):
            total = a + c * c - (c - a) * 2.0 + (3.0 - c) / (a * a + 1.0) + n
            near = ((c <= a) & (n > 1)) | ((n + n > 1) & (c >= 2.0)) | (n == 5)
            tl.store(out + places, tl.where(near, total, -total + n * n - (4 - n)))
            out += 8


@interpreted
def test_operators_are_pytorchs() -> None:
    x, y, numbers = torch.randn(2, 8), torch.randn(2, 8), torch.randint(0, 7, (2, 8), dtype=torch.int32)
    out = torch.empty(2, 2, 8)
    _rows_by_operators[(1,)](x, y, numbers, out)
    for a, b, n, found in zip(x, y, numbers, out, strict=True):
        for c, row in zip((a, b), found, strict=True):
            total = a + c * c - (c - a) * 2.0 + (3.0 - c) / (a * a + 1.0) + n
            near = ((c <= a) & (n > 1)) | ((n + n > 1) & (c >= 2.0)) | (n == 5)
            assert torch.equal(row, torch.where(near, total, -total + n * n - (4 - n)))
