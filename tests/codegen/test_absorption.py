"""The product that attention over a latent ends with: values are written where their heads lie."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from archc.ir.op import OPS
from tests.codegen.registered import check_op
from tests.support import SPECS, build, distance

REFERENCE = OPS["absorb_values"].reference


@functools.cache
def _kernels(folder: Path) -> Any:
    return sys.modules[build(SPECS / "latent.arch", "latent_tiny", folder).Model.__module__].kernels


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("tokens", [(1, 1), (3, 1), (2, 5)])
def test_values_and_gradients(group: int, tokens: tuple[int, int], tmp_path: Path) -> None:
    x = torch.randn(*tokens, 6, 23, dtype=torch.float64)[..., :20].requires_grad_()
    weight = torch.randn(6 // group, 7, 20, dtype=torch.float64, requires_grad=True)
    kernels = _kernels(tmp_path.parent)
    truth = REFERENCE(x, weight, group=group)
    gradient = torch.randn_like(truth)
    wanted = torch.autograd.grad(truth, (x, weight), gradient)
    assert kernels._absorb_values(x, weight, group).is_contiguous()
    for function in (kernels._absorb_values, kernels.absorb_values):
        values = function(x, weight, group)
        assert distance(values, truth) < 1e-14
        found = torch.autograd.grad(values, (x, weight), gradient)
        for ours, exact in zip(found, wanted, strict=True):
            assert distance(ours, exact) < 1e-14


def test_no_sequence(tmp_path: Path) -> None:
    x, weight = torch.zeros(0, 1, 6, 20, requires_grad=True), torch.zeros(2, 7, 20, requires_grad=True)
    values = _kernels(tmp_path.parent)._absorb_values(x, weight, 3)
    assert values.shape == (0, 1, 6, 7)
    assert not torch.autograd.grad(values.sum(), weight)[0].any()


def test_it_compiles(tmp_path: Path) -> None:
    """As one op of PyTorch's, whose shapes are known without running it."""
    kernels = _kernels(tmp_path.parent)
    operands = (torch.randn(2, 3, 4, 6, requires_grad=True), torch.randn(4, 5, 6, requires_grad=True), 1)
    check_op(kernels._absorb_values, operands)
