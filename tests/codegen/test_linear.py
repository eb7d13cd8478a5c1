"""Linear maps of few rows by kernels: as accurate as PyTorch's, where a table chooses them and only there."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from types import ModuleType
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from archc.codegen.emit import Origin
from archc.compiler import Compilation, package_files
from archc.tuned import Entry, Problem, Provenance, Tile, Tuned
from archc.tuning.choice import problems
from archc.verification.packages import import_package
from tests.codegen.interpreter import interpreted
from tests.support import SPECS, compile_model, distance, scramble

SOURCE = Provenance("a GPU", "3.9.0", "2.13.0", "2026-11-25")
ROW, ROWS = Tile(4, 64, 1, 1), Tile(16, 32, 1, 2)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LEVEL = {torch.float32: 1e-7, torch.float16: 2e-5, torch.bfloat16: 2e-4}  # below this all are as good


def _tuned(found: Sequence[Problem], faster: bool = True) -> Tuned:
    times = (1.0, 2.0) if faster else (2.0, 1.0)
    return Tuned(tuple(Entry(each, ROW if each.rows == 1 else ROWS, *times, SOURCE) for each in found))


def _compiled(spec: str, model: str, dtype: str = "float32") -> Compilation:
    compilation = compile_model(SPECS / f"{spec}.arch", model)
    return replace(compilation, tuned=_tuned(problems(compilation, dtype)))


@functools.cache
def _package() -> ModuleType:
    return import_package(_compiled("gpt2", "gpt2_tiny"), Path(mkdtemp()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 7, 16])
@interpreted
def test_accuracy(rows: int, dtype: torch.dtype) -> None:
    """Odd sizes and even ones, less than a tile and more, with a bias and without."""
    for outputs, inputs in ((37, 100), (16, 64), (5, 7), (64, 33)):
        x, weight, bias = (
            torch.randn(*shape).to(dtype) for shape in ((rows, 1, inputs), (outputs, inputs), (outputs,))
        )
        for given in (None, bias):
            truth = F.linear(x.double(), weight.double(), None if given is None else given.double())
            tile = ROW if rows == 1 else ROWS
            y = _package().kernels._linear(
                x, weight, given, tile.outputs, tile.inputs, tile.warps, tile.stages
            )
            assert y.shape == truth.shape
            assert y.dtype == dtype
            allowed = 1.05 * distance(F.linear(x, weight, given), truth) + LEVEL[dtype]
            assert distance(y, truth) <= allowed


@interpreted
def test_strides_of_any_kind() -> None:
    x = torch.randn(4, 3, 50)[:, 1:2, :37]
    weight = torch.randn(37, 20).t()
    y = _package().kernels._linear(x, weight, None, 16, 32, 1, 2)
    assert distance(y, F.linear(x.double(), weight.double())) < 1e-6


@pytest.mark.parametrize(
    ("spec", "model"),
    [("gpt2", "gpt2_tiny"), pytest.param("llama3", "llama3_tiny", marks=pytest.mark.slow)],
)
@interpreted
def test_a_model_decodes_by_them(spec: str, model: str) -> None:
    """The same tokens as by PyTorch; a step calls them for every linear map, training for none."""
    with TemporaryDirectory() as folder:
        package = import_package(_compiled(spec, model), Path(folder))
        kernels = package.kernels
        fused = package.Model(dtype=torch.float32)
        scramble(fused)
        layers = next(len(each) for each in fused.children() if isinstance(each, torch.nn.ModuleList))
        calls: list[int] = []
        own = kernels._linear

        def counted(x: torch.Tensor, *given: object) -> torch.Tensor:
            calls.append(x.shape[0] * x.shape[1])
            result: torch.Tensor = own(x, *given)
            return result

        kernels._linear = counted
        tokens = torch.randint(0, 160, (2, 20))
        fused(tokens).sum().backward()
        assert not calls
        with torch.no_grad():
            assert fused(tokens).shape[:2] == (2, 20)
            assert not calls, "40 rows are many"
            cache = fused.new_cache(2, 21)
            fused(tokens, cache=cache)
            step = fused(tokens[:, :1], cache=cache)
            assert calls == [2] * (4 * layers + 1)
            cache = fused.new_cache(2, 21)
            kernels._LINEAR_TILES.clear()
            fused(tokens, cache=cache)
            assert distance(step, fused(tokens[:, :1], cache=cache)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@interpreted
def test_autocast_is_heeded(dtype: torch.dtype) -> None:
    """Few rows are multiplied with float32 weights as many are, whether or not they are a product, too."""
    kernels, weight, x = _package().kernels, torch.randn(37, 20), torch.randn(1, 20, 20).to(dtype)
    tiles = {(dtype, 37, 20, rows): (16, 32, 1, 2) for rows in (1, 16)}
    with (
        patch.dict(kernels._LINEAR_TILES, tiles),
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16),
    ):
        many = kernels.linear(x, weight)
        for rows in (1, 2):
            few = kernels.linear(x[:, :rows], weight)
            assert few.dtype == many.dtype
            assert distance(few, many[:, :rows].double()) < LEVEL[torch.bfloat16]


@interpreted
def test_a_model_with_them_compiles() -> None:
    fused = _package().Model(dtype=torch.float32)
    scramble(fused)
    tokens = torch.randint(0, 160, (1, 5))
    with torch.no_grad():
        compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")(tokens)
        assert distance(compiled, fused(tokens)) < 1e-6


def test_only_what_is_faster_is_chosen() -> None:
    compilation = compile_model(SPECS / "llama3.arch", "llama3_tiny")
    found = problems(compilation, "bfloat16")
    origin = Origin("llama3.arch", "llama3_tiny", "cuda")
    plain = package_files(compilation, origin)
    assert "kernels.linear(" not in plain["model.py"]
    assert package_files(replace(compilation, tuned=_tuned(found, faster=False)), origin) == plain
    single = [problem for problem in found if problem.rows == 1]
    chosen = package_files(replace(compilation, tuned=_tuned(single)), origin)
    assert chosen["model.py"].count("kernels.linear(") == 2, "others begin with a norm or SwiGLU"
    assert chosen["kernels.py"].count("(torch.bfloat16,") == 2
    output = next(problem for problem in single if problem.outputs == problem.inputs)
    own = package_files(replace(compilation, tuned=_tuned([output])), origin)
    assert own["model.py"].count("kernels.linear(") == 1
    assert own["kernels.py"].count("(torch.bfloat16,") == 1
    assert str(SOURCE) in own["kernels.py"]
    assert str(SOURCE) in own["REPORT.md"]
    assert own["reference.py"] == plain["reference.py"]


def test_a_target_without_kernels_has_none() -> None:
    compilation = compile_model(SPECS / "llama3.arch", "llama3_tiny", target="cpu")
    tuned = replace(compilation, tuned=_tuned(problems(compilation, "bfloat16")))
    origin = Origin("llama3.arch", "llama3_tiny", "cpu")
    assert package_files(tuned, origin) == package_files(compilation, origin)
