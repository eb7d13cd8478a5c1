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


@triton.jit
def _rows_by_casts(x, out, products):
    """Casts that take one step, several or none, and further dimensions, each done twice."""
    rows, columns = tl.arange(0, 4), tl.arange(0, 8)
    for again in range(2):
        a = tl.load(x + again * 32 + rows[:, None] * 8 + columns[None, :])
        narrow = a.to(tl.bfloat16).to(tl.float32) + a.to(tl.float16).to(tl.float32)
        both = a.to(tl.float16).to(tl.bfloat16).to(tl.float32)
        whole = a.to(tl.int32).to(tl.int64).to(tl.float32) + a.to(tl.int64).to(tl.int1).to(tl.int32)
        places = again * 32 + rows[:, None] * 8 + columns[None, :]
        tl.store(out + places, (narrow + both + whole).to(tl.float32))
        pairs = tl.sum(a[:, None, :] * a[None, :, :], 2)
        tl.store(products + again * 16 + rows[:, None] * 4 + rows[None, :], pairs)


@interpreted
def test_casts_and_dimensions_are_pytorchs() -> None:
    x = 3 * torch.randn(2, 4, 8)
    out, products = torch.empty(2, 4, 8), torch.empty(2, 4, 4)
    _rows_by_casts[(1,)](x, out, products)
    narrow = x.bfloat16().float() + x.half().float()
    whole = x.long().float() + x.long().bool().int()
    assert torch.equal(out, narrow + x.half().bfloat16().float() + whole)
    torch.testing.assert_close(products, x @ x.mT)
