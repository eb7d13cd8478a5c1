"""Kernels on tensors of more values than 32 bits count: no offset overflows, none is outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from archc.verification.kernel_runs import Sizes
from archc.verification.meta_runs import run_kernels, run_model
from archc.verification.packages import import_package
from tests.codegen.far_tensors import far_tensors
from tests.codegen.interpreter import interpreted
from tests.gpu import is_on
from tests.support import SPECS, compile_model, read_spec

pytestmark = pytest.mark.skipif(is_on(), reason="Triton's interpreter runs the corners of a grid alone")

MODULES = {path: read_spec(path).module for path in sorted(SPECS.glob("*.arch"))}
FIRST = {next(iter(module.models)): path for path, module in MODULES.items() if module.models}
MILLION = 2**20 + 3  # tokens of a sequence
SIZES = Sizes(MILLION, MILLION, MILLION, (2, MILLION))


@pytest.mark.slow
@pytest.mark.parametrize("model", FIRST)
@pytest.mark.parametrize("run", [run_kernels, run_model])
@interpreted
def test_kernels_of_a_model(model: str, run: Callable[..., None], tmp_path: Path) -> None:
    compilation = compile_model(FIRST[model], model)
    with far_tensors() as launched:
        run(import_package(compilation, tmp_path), compilation, torch.bfloat16, SIZES)
    assert len(set(launched)) > 2


@interpreted
def test_short_numbers_of_rows_of_a_large_table(tmp_path: Path) -> None:
    """As those of tokens may be: a row's number takes 32 bits, where the row lies more."""
    table = "embedding(tokens, 256000, 12288) as wte"
    spec = f"arch A() {{ forward(tokens: [B, T]) {{ return {table} }} }}\nmodel a = A()"
    kernels = import_package(compile_model(spec, "a"), tmp_path).kernels
    dy = torch.empty(MILLION, 12288, dtype=torch.bfloat16, device="meta")
    tokens = torch.empty(MILLION, dtype=torch.int32, device="meta")
    with far_tensors() as launched:
        kernels._embedding_backward.launch(dy, tokens, 256000)
    assert len(launched) == 2


@triton.jit
def copied(x_ptr, y_ptr, rows, width, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Rows in turn, as many at a time as there are programs."""
    column = tl.arange(0, BLOCK)
    for each in range(tl.program_id(0), rows, tl.num_programs(0)):
        row = tl.cast(each, tl.int64) if WIDE else each
        x = tl.load(x_ptr + row * width + column, mask=column < width)
        tl.store(y_ptr + row * width + column, x, mask=column < width)


WRONG = {
    "overflow": {"wide": False},
    "loads outside": {"given": 2**20 - 1},
    "is launched for": {"grid": (1, 2**16)},
    "nothing far": {"rows": 5},
}


def _copy(
    wide: bool = True, given: int = 2**20, rows: int = 2**20, grid: tuple[int, ...] = (8,), width: int = 4096
) -> None:
    x, y = (torch.empty(count, width, dtype=torch.bfloat16, device="meta") for count in (given, 2**20))
    with far_tensors() as launched:
        copied[grid](x, y, rows, width, WIDE=wide, BLOCK=4096)
    assert list(launched) == ["copied"]


@interpreted
def test_a_right_kernel() -> None:
    _copy()
    _copy(wide=False, width=2047)


@pytest.mark.parametrize("found", WRONG)
@interpreted
def test_a_wrong_kernel_is_found(found: str) -> None:
    with pytest.raises(Exception, match=found):
        _copy(**WRONG[found])
