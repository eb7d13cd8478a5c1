"""Lists of numbers as tensors: exact, no parameters, one class for layers that differ in them alone."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from archc.ir.ops.numbers import CONSTANTS
from archc.ir.ops.structure import LOOP
from archc.verification.packages import import_package
from tests.support import compile_model, distance, scramble

SPEC = """
    arch A(d = 6, layers = 3) {
      forward(x: float[B, T, d]) {
        for i in 0..layers as layers {
          x = x + linear(x * [1 / (1 + i + c) for c in 0..d], d) as up
        }
        for i in 2..5 {
          x = x / [i + c for c in 0..d]
        }
        for i in 7..8 {
          x = merge_heads(split_heads(x, 2) * [[h - i * c for c in 0..3] for h in 0..2])
        }
        return merge_heads(matmul(split_heads(x, 2), [[1 / (1 + r + c) for c in 0..3] for r in 0..3]))
      }
    }
    model a = A()
"""
D = 6
both = pytest.mark.parametrize("kind", ["Model", "Reference"])


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return import_package(compile_model(SPEC, "a"), tmp_path_factory.mktemp("constants"))


def wanted(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The spec by hand, in float64."""
    c = torch.arange(D, dtype=torch.float64)
    for i, weight in enumerate(model.parameters()):
        x = x + (x / (1 + i + c)) @ weight.double().T
    for i in range(2, 5):
        x = x / (i + c)
    h, c = torch.arange(2)[:, None], torch.arange(3)[None]
    x = x * (h - 7 * c).flatten()
    return (x.unflatten(-1, (2, 3)) @ (1 / (1 + c + c.T).double())).flatten(-2)


@both
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float64, 1e-15), (torch.float32, 1e-6), (torch.bfloat16, 0.02)]
)
def test_values(package: ModuleType, kind: str, dtype: torch.dtype, limit: float) -> None:
    model = getattr(package, kind)(dtype=dtype)
    scramble(model)
    x = torch.randn(2, 3, D, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.inference_mode():
        y = model(x)
    assert y.dtype == dtype
    assert distance(y, wanted(model, x.double())) < limit
    model(x).sum().backward()  # what a run without gradients has kept serves one with them


def test_they_are_no_parameters(package: ModuleType) -> None:
    model = package.Model()
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(D, D)] * 3
    assert not list(model.buffers())


def test_layers_that_differ_in_them_alone_are_one() -> None:
    graph = compile_model(SPEC, "a").fused
    assert [len(node.bodies) for node in graph.nodes() if node.op is LOOP] == [1, 1]
    shapes = [node.types[0].shape for node in graph.nodes() if node.op is CONSTANTS]
    assert sorted(shapes) == [(2, 3), (3, 3), (3, D), (3, D)]
