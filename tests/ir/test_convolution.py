"""Causal convolutions and shifts by their references: as PyTorch's, in pieces, with padding, in a ring."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from archc import compiler
from archc.errors import SpecError
from archc.ir.op import OPS

TAPS = 4
Windowed = Callable[[Tensor, Tensor, Tensor], Tensor]


def _conv(weight: Tensor, offset: Tensor) -> Windowed:
    run = functools.partial(OPS["causal_conv"].reference, taps=TAPS)
    return lambda x, positions, keys: run(x, positions, keys, weight, offset)


def _tensors() -> list[Tensor]:
    """x, weight and offset."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).double() for shape in ((2, 7, 3), (3, 1, TAPS), (3,))]


def _random() -> tuple[Tensor, Windowed, Windowed]:
    """x [2, 7, 3], and what looks back from its tokens: a convolution and a shift."""
    generator = torch.Generator().manual_seed(0)
    x, weight, offset = (
        torch.randn(s, generator=generator).double() for s in ((2, 7, 3), (3, 1, TAPS), (3,))
    )
    return x, _conv(weight, offset), functools.partial(OPS["shift"].reference, by=TAPS - 1)


def test_as_pytorch_convolves() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, offset = (
        torch.randn(s, generator=generator).double() for s in ((2, 7, 3), (3, 1, TAPS), (3,))
    )
    places = torch.arange(7)[None]
    padded = F.pad(x.transpose(1, 2), (TAPS - 1, 0))
    truth = F.conv1d(padded, weight, offset, groups=3).transpose(1, 2)
    assert torch.allclose(_conv(weight, offset)(x, places, places), truth, rtol=1e-14)
    heads = x[:, :, None].expand(-1, -1, 5, -1)
    assert torch.allclose(_conv(weight, offset)(heads, places, places), truth[:, :, None], rtol=1e-14)


@pytest.mark.parametrize("which", [1, 2], ids=["convolution", "shift"])
def test_in_pieces_and_in_a_ring(which: int) -> None:
    """The last tokens, of those that a cache still holds; a ring has them in any order."""
    x, *others = _random()
    run, places = others[which - 1], torch.arange(7)[None]
    whole = run(x, places, places)
    for end in range(1, 8):
        first = max(end - TAPS, 0)
        held = first + torch.randperm(end - first, generator=torch.Generator().manual_seed(end))
        assert torch.allclose(run(x[:, held], places[:, end - 1 : end], held[None]), whole[:, end - 1 : end])
        new = slice(max(end - 2, 0), end)
        assert torch.allclose(run(x[:, :end], places[:, new], places[:, :end]), whole[:, new])


@pytest.mark.parametrize("which", [1, 2], ids=["convolution", "shift"])
@pytest.mark.parametrize("real", ["0011111", "1111100", "0101101", "0000000"])
def test_padding_does_not_count(which: int, real: str) -> None:
    """Wherever it is; what stands there, even NaN, reaches no other token."""
    x, *others = _random()
    run, kept = others[which - 1], torch.tensor([mark == "1" for mark in real])
    positions = (kept.cumsum(0) - 1).clamp(min=0)[None]
    found = run(x.masked_fill(~kept[:, None], torch.nan), positions, positions.masked_fill(~kept, -1))
    assert found.isfinite().all()
    if kept.any():
        alone = torch.arange(int(kept.sum()))[None]
        assert torch.allclose(found[:, kept], run(x[:, kept], alone, alone))


def test_sums_are_rounded_once() -> None:
    """In bfloat16 the result is the float64 one, rounded: 256 + 1 - 256 would be lost on the way."""
    x = torch.tensor([[[256.0], [1.0], [-256.0]]], dtype=torch.bfloat16)
    places = torch.arange(3)[None]
    weight = torch.ones(1, 1, 3, dtype=torch.bfloat16)
    y = OPS["causal_conv"].reference(x, places, places, weight, taps=3)
    assert y.dtype is torch.bfloat16
    assert y[0, 2, 0] == 1


def test_a_convolution_over_no_tokens_is_refused() -> None:
    spec = "import std arch A() { forward(x: float[B, T, 8]) { return CausalConv(x, 0) as c } } model a = A()"
    with pytest.raises(SpecError, match=r"`taps` of `causal_conv` must be a whole number from 1 .*, not 0"):
        compiler.check(compiler.read_spec_text(spec, "spec.arch"))
