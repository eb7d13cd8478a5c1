"""Linear maps in float32 of operands in half precision, in Triton's interpreter, against float64."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.ir.op import OPS
from tests.codegen.interpreter import interpreted
from tests.support import SPECS, build, distance

REFERENCE = functools.partial(OPS["linear"].reference, wide=True)
SIZES = {"a token": (1, 1, 48, 12), "few rows": (2, 5, 300, 20), "many rows": (1, 70, 80, 66)}


@functools.cache
def _kernels(folder: Path) -> Any:
    return sys.modules[build(SPECS / "deepseek_v3.arch", "deepseek_v3_tiny", folder).Model.__module__].kernels


def _operands(size: str, dtype: torch.dtype, offset: bool) -> list[Tensor]:
    batch, tokens, width, out = SIZES[size]
    shapes = [(batch, tokens, width), (out, width), *([(out,)] if offset else [])]
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES)
@interpreted
def test_products_and_gradients(size: str, dtype: torch.dtype, tmp_path: Path) -> None:
    kernels = _kernels(tmp_path.parent)
    for offset in (False, True):
        operands = _operands(size, dtype, offset)
        exact = [operand.detach().double().requires_grad_() for operand in operands]
        y, truth = kernels.wide_linear(*operands), REFERENCE(*exact)
        assert y.dtype == torch.float32
        assert distance(y, truth) < 1e-6
        gradient = torch.randn_like(y)
        found = torch.autograd.grad(y, operands, gradient)
        wanted = torch.autograd.grad(truth, exact, gradient.double())
        for ours, right in zip(found, wanted, strict=True):
            assert distance(ours, right) < (1e-6 if dtype == torch.float32 else 4e-3)


@interpreted
def test_operands_that_are_wider_than_weights(tmp_path: Path) -> None:
    """As where training puts noise on them in float32."""
    kernels = _kernels(tmp_path.parent)
    x, weight = (
        _operands("many rows", torch.float32, False)[0],
        _operands("many rows", torch.bfloat16, False)[1],
    )
    y, truth = kernels.wide_linear(x, weight), REFERENCE(x.double(), weight.double())
    assert distance(y, truth) < 1e-6
    gradient = torch.randn_like(y)
    dx, dweight = torch.autograd.grad(y, (x, weight), gradient)
    assert distance(dx, gradient.double() @ weight.double()) < 1e-6
    assert distance(dweight, torch.einsum("bto,bti->oi", gradient.double(), x.double())) < 4e-3


@interpreted
def test_any_strides_and_no_rows(tmp_path: Path) -> None:
    kernels = _kernels(tmp_path.parent)
    wide, weight = torch.randn(2, 3, 50), torch.randn(20, 7).t()
    assert distance(kernels.wide_linear(wide[..., 9:29], weight), wide[..., 9:29] @ weight.t()) < 1e-6
    assert kernels.wide_linear(wide[:0, :, :20], weight).shape == (0, 3, 7)
