"""Linear maps of one row in the kernels of the norms and activations before them, and only of one row."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from archc.codegen.emit import Origin
from archc.codegen.kernels.linear.after_plan import LinearAfterKernel
from archc.codegen.package import plan_package
from archc.compiler import Compilation, package_files
from archc.tuned import Entry, Problem, Provenance, Tile, Tuned
from archc.verification.packages import import_package
from tests.codegen.interpreter import interpreted
from tests.codegen.registered import check_op
from tests.instruments.traffic import measure
from tests.support import compile_model, distance, scramble

_SPEC = """
arch A(d, f, vocab = 40) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, vocab, d) as wte
    for i in 0..2 as h {
      y = layer_norm(x, 1e-5, bias = true) as first
      x = x + linear(gelu(linear(y, f, bias = true) as up), d, bias = true) as down
      y = rms_norm(linear(rms_norm(x, 1e-6, offset = 1.0) as second, d) as sand, 1e-6, offset = 1.0) as wich
      x = x + y
      y = rms_norm(x, 1e-6, offset = 1.0) as third
      g, u = split_interleaved(linear(y, 2 * f, bias = true) as gated, 2)
      g, u = minimum(g, 7.0), maximum(minimum(u, 7.0), -7.0)
      x = x + 0.3 * (linear((u + 1) * g * sigmoid(1.702 * g), d) as left)
      x = x + 0.3 * linear(rms_norm(x, 1e-6) as fourth, d) as right
      y = gelu(linear(x, d, bias = true) as acted)
      x = x + y * linear(y, d) as thrice
      y = rms_norm(x, 1e-6) as sixth
      x = x + y * linear(y, d) as twice
      y = layer_norm(x, 1e-5, bias = true) as seventh
      x = x + y * cast_like(sigmoid(linear(upcast(y), d, bias = true, wide = true) as wider), y)
      x = x + rms_norm(linear(tanh(x), d) as curved, 1e-6) as after
      x = x + rms_norm(linear(x, d) as of_sum, 1e-6) as last
      x = x + linear((rms_norm(x, 1e-6) as fifth) / (parameter([d]) as waves), d) as back
    }
    return linear(rms_norm(x, 1e-6, offset = 1.0) as end, vocab) as head
  }
}
model odd = A(d = 20, f = 37)
model even = A(d = 64, f = 1100)
"""
KERNELS = {
    "add_layer_norm_linear",
    "bias_gelu_linear",
    "add_rms_norm_linear",
    "rms_norm_add_rms_norm_linear",
    "clamped_swiglu_linear",
    "mul_add_rms_norm_linear",
    "rms_norm_add_rms_norm_div_linear",
    "sigmoid_mul_tanh_linear",
    # Others read the row, too.
    "mul_add_and_linear",
    "bias_gelu_2_and_linear",
    "mul_add_rms_norm_2_and_linear",
    "mul_add_layer_norm_and_wide_linear",
    "rms_norm_add_and_linear",
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LEVEL = {torch.float32: 3e-7, torch.float16: 2e-4, torch.bfloat16: 2e-3}  # below this all are as good
ORIGIN = Origin("a.arch", "odd", "cuda")


@functools.cache
def _compilation(model: str) -> Compilation:
    return compile_model(_SPEC, model)


@functools.cache
def _package(model: str) -> ModuleType:
    return import_package(_compilation(model), Path(mkdtemp()))


def _kernels(model: str) -> ModuleType:
    return _package(model).kernels


@functools.cache
def _plans(model: str) -> tuple[LinearAfterKernel, ...]:
    compilation = _compilation(model)
    package = plan_package(compilation.program, compilation.fused, compilation.reference)
    return tuple(kernel for kernel in package.kernels if isinstance(kernel, LinearAfterKernel))


def _operands(plan: LinearAfterKernel, rows: int = 1) -> Iterator[list[Tensor | None]]:
    """Tensors in float64, of any strides: all, then without those that may be None."""
    given: list[Tensor | None] = []
    for operand in plan.op.operands:
        *lead, width = operand.shape
        if lead:
            given.append(torch.randn(1, rows, int(width) + 8, dtype=torch.float64)[..., : int(width)] * 3)
        else:
            given.append(torch.randn(int(width), dtype=torch.float64))
    for (outputs, inputs), biased in plan.maps:
        weights = [torch.randn(inputs, outputs, dtype=torch.float64).t() / inputs**0.5]
        bias = [torch.randn(outputs, dtype=torch.float64) if biased else None] if plan.biased else []
        yield [*given, *weights, *bias]
        if any(operand.optional for operand in plan.op.operands):
            named = zip(plan.op.operands, given, strict=True)
            yield [*(None if each.optional else tensor for each, tensor in named), *weights, *bias]


def _cast(operands: list[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    return [None if each is None else each.to(dtype) for each in operands]


def _tuple(results: Any) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def test_norms_and_activations_have_them() -> None:
    assert {plan.name for plan in _plans("odd")} == KERNELS


@pytest.mark.parametrize(
    ("model", "dtype"), [*(("odd", dtype) for dtype in DTYPES), ("even", torch.bfloat16)]
)
@interpreted
def test_accuracy(model: str, dtype: torch.dtype) -> None:
    """No less accurate than one op after the other in PyTorch, whatever the widths; sums are written too."""
    kernels = _kernels(model)
    for plan in _plans(model):
        for exact in _operands(plan):
            operands = _cast(exact, dtype)
            truth = _tuple(getattr(kernels, plan.name)(*_cast(operands, torch.float64)))
            found = _tuple(getattr(kernels, f"_{plan.name}")(*operands))
            runs, kernels._runs_triton = kernels._runs_triton, lambda _: False
            plain = _tuple(getattr(kernels, plan.name)(*operands))
            kernels._runs_triton = runs
            for mine, its, true in zip(found, plain, truth, strict=True):
                assert mine.shape == true.shape
                assert mine.dtype == its.dtype
                assert distance(mine, true) <= 1.05 * distance(its, true) + LEVEL[dtype], plan.name


@interpreted
def test_they_are_for_one_row_without_gradients() -> None:
    kernels = _kernels("odd")
    for plan in _plans("odd"):
        calls: list[str] = []
        own, name = getattr(kernels, f"_{plan.name}"), plan.name

        def counted(*given: Any, own: Any = own, name: str = name, calls: list[str] = calls) -> Any:
            calls.append(name)
            return own(*given)

        setattr(kernels, f"_{name}", counted)
        one, two = (_cast(next(_operands(plan, rows)), torch.float32) for rows in (1, 2))
        getattr(kernels, name)(*one)
        with torch.no_grad():
            getattr(kernels, name)(*two)
            assert not calls
            getattr(kernels, name)(*one)
            assert calls == [name]
        setattr(kernels, f"_{name}", own)


@interpreted
def test_autocast_casts_what_they_multiply() -> None:
    """One row as many: float32 weights are in autocast's dtype, and so is the product unless it is wide."""
    kernels = _kernels("odd")
    for plan in _plans("odd"):
        two = _cast(next(_operands(plan, 2)), torch.float32)
        one = [each if each is None or each.dim() < 3 else each[:, :1] for each in two]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            of_one, of_two = (_tuple(getattr(kernels, plan.name)(*given)) for given in (one, two))
        for mine, its in zip(of_one, of_two, strict=True):
            assert mine.dtype == its.dtype, plan.name
            assert distance(mine, its[:, :1].double()) < LEVEL[mine.dtype], plan.name


@interpreted
def test_autocast_to_their_own_dtype_leaves_them() -> None:
    kernels = _kernels("odd")
    for plan in _plans("odd"):
        given = _cast(next(_operands(plan)), torch.float16)
        with (
            patch.object(kernels, f"_{plan.name}", wraps=getattr(kernels, f"_{plan.name}")) as kernel,
            torch.no_grad(),
        ):
            expected = _tuple(getattr(kernels, plan.name)(*given))
            with torch.autocast("cpu", torch.float16):
                cast = _tuple(getattr(kernels, plan.name)(*given))
        assert kernel.call_count == 2, plan.name
        assert all(map(torch.equal, cast, expected)), plan.name


@interpreted
def test_they_are_ops_of_pytorch() -> None:
    for plan in _plans("odd"):
        op = getattr(_kernels("odd"), f"_{plan.name}")
        check_op(op, _cast(next(_operands(plan)), torch.float32))


@interpreted
def test_a_model_decodes_by_them() -> None:
    """One sequence, token after token, as all tokens at once."""
    model = _package("odd").Model(dtype=torch.float32)
    scramble(model)
    tokens = torch.randint(0, 40, (1, 3))
    with torch.no_grad():
        cache = model.new_cache(1, 3)
        steps = [model(tokens[:, place : place + 1], cache=cache) for place in range(3)]
        assert distance(torch.cat(steps, 1), model(tokens).double()) < 1e-5


@interpreted
def test_weights_are_read_once() -> None:
    """Also where a program loads the next ones before it is done with some, and where there are no more."""
    for plan in _plans("even"):
        operands = _cast(next(_operands(plan)), torch.bfloat16)
        launch = getattr(_kernels("even"), f"_{plan.name}").launch
        moved = measure(lambda launch=launch, operands=operands: launch(*operands)).moved
        weight = next(entry for (_, name, _), entry in moved.items() if name == "linear_weight_ptr")
        assert weight.first == weight.size
        assert not weight.again


def test_what_was_measured_against_them_is_heeded() -> None:
    """A library's linear map that is faster by more than a launch stays."""
    files = package_files(_compilation("odd"), ORIGIN)["model.py"]
    assert "kernels.bias_gelu_linear(" in files
    source = Provenance("a GPU", "3.9.0", "2.13.0", "2026-11-25")
    for own, used in ((9.5, True), (12.5, False)):
        entry = Entry(Problem(1, 20, 37), Tile(4, 64, 1, 1), own, 10.0, source)
        compilation = replace(_compilation("odd"), tuned=Tuned((entry,)))
        assert ("kernels.bias_gelu_linear(" in package_files(compilation, ORIGIN)["model.py"]) == used
