"""Compiling for chips that are not there: each breach of a limit is found, and nothing else is."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from archc.verification.chips import CHIPS
from archc.verification.compiling import (
    Compiling,
    KernelError,
    Usage,
    compile_launch,
    lacking_registers,
)
from archc.verification.launch import Launch
from archc.verification.launches import launches
from archc.verification.machine_code import MachineCode, Tile
from tests.support import compile_model, few


@pytest.fixture(scope="module", autouse=True)
def _empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile every kernel anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@triton.jit
def _broken_kernel(x_ptr):
    tl.store(x_ptr + tl.arange(0, 3), 1.0)


@triton.jit
def sum_kernel(x_ptr, y_ptr):
    tl.store(y_ptr, tl.sum(tl.load(x_ptr + tl.arange(0, 1024)), 0))


@pytest.mark.parametrize("chip", CHIPS)
def test_a_kernel_that_does_not_compile_is_named(chip: str) -> None:
    launch = Launch(_broken_kernel, (torch.zeros(4),), 4)
    with pytest.raises(KernelError, match=f"_broken_kernel for {chip}"):
        compile_launch(launch, CHIPS[chip])


def test_too_much_shared_memory_is_found() -> None:
    launch = Launch(sum_kernel, (torch.zeros(1024), torch.zeros(1)), 4)
    chip = CHIPS["sm_90"]
    usage = compile_launch(launch, chip)
    assert usage.code.shared
    with pytest.raises(KernelError, match="bytes of shared memory"):
        compile_launch(launch, dataclasses.replace(chip, shared=usage.code.shared - 1))


def test_kernels_are_compiled_at_once_in_their_order() -> None:
    """Two that are the same code are one; one that does not compile does not keep others from it."""
    found = [
        Launch(sum_kernel, (torch.zeros(1024), torch.zeros(1)), 4),
        Launch(sum_kernel, (torch.ones(1024), torch.zeros(1)), 4),
        Launch(_broken_kernel, (torch.zeros(4),), 4),
        Launch(crowded_kernel, (torch.zeros(1, 512), torch.zeros(1, 512), 512), 4),
    ]
    chip = CHIPS["sm_90"]
    with Compiling([chip], threads=2) as compiling:
        for launch in found:
            compiling.add(launch)
    chosen, (summed, broken, crowded) = zip(*compiling.results(chip), strict=True)
    assert chosen == (found[0], *found[2:])
    assert isinstance(broken, KernelError)
    assert [usage.name for usage in (summed, crowded) if isinstance(usage, Usage)] == [
        "sum_kernel",
        "crowded_kernel",
    ]


def test_too_many_threads_are_found() -> None:
    launch = Launch(sum_kernel, (torch.zeros(1024), torch.zeros(1)), 32)
    assert compile_launch(launch, CHIPS["sm_90"]).code.registers
    with pytest.raises(KernelError, match="2048 threads"):
        compile_launch(launch, CHIPS["gfx942"])


@triton.jit
def crowded_kernel(x_ptr, y_ptr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    x = tl.load(x_ptr + place)
    tl.store(y_ptr + place, x / tl.sum(x, 0))


@pytest.mark.parametrize("chip", few(CHIPS, 2))
def test_spilled_registers_are_found(chip: str) -> None:
    size = 1 << (17 if CHIPS[chip].backend == "hip" else 16)  # all registers, and a value more would not fit
    x = torch.zeros(1, size)
    launch = Launch(crowded_kernel, (x, x, size), 1024 // CHIPS[chip].warp)
    assert "bytes of registers spilled" in str(compile_launch(launch, CHIPS[chip]).breaches())


def test_registers_spilled_by_choice_do_not_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer registers than there are, what matters is what spills with all of them.

    The assembler alone runs again to tell.
    """
    chip = CHIPS["sm_90"]
    launch = Launch(crowded_kernel, (torch.zeros(1, 4096), torch.zeros(1, 4096), 4096), 1)
    code = compile_launch(launch, chip).code
    monkeypatch.setattr("triton.backends.nvidia.compiler.CUDABackend.make_llir", None)
    chosen = dataclasses.replace(code, registers=32, spilled=8)
    assert not lacking_registers(launch, chip, chosen)
    for spilling in ({"registers": 255, "spilled": 8}, {"registers": 32, "spilled": 40}):
        code = dataclasses.replace(code, **spilling)
        assert lacking_registers(launch, chip, code) == code.spilled
    monkeypatch.setattr("archc.verification.compiling._MOST", 64)  # of the 156 that it has use for
    assert lacking_registers(launch, chip, chosen) > chosen.spilled


@triton.jit
def _strided_kernel(x_ptr, y_ptr):
    place = tl.arange(0, 1024)
    tl.store(y_ptr + place, tl.load(x_ptr + 2 * place))


@pytest.mark.parametrize("chip", CHIPS)
def test_narrow_accesses_are_found(chip: str) -> None:
    launch = Launch(_strided_kernel, (torch.zeros(1, 2048), torch.zeros(1, 1024)), 1)
    assert "in accesses of 16 and more" in str(compile_launch(launch, CHIPS[chip]).breaches())


@triton.jit
def _gather_kernel(x_ptr, places_ptr, y_ptr, STEP: tl.constexpr):
    """One value of x at each loaded place, or every second one of a row there."""
    place = tl.arange(0, 1024)
    if STEP == 0:
        found = tl.load(x_ptr + tl.load(places_ptr + place))
        tl.store(y_ptr + place, found)
    else:
        rows = tl.load(places_ptr + tl.arange(0, 16))[:, None]
        column = tl.arange(0, 64)[None, :]
        found = tl.load(x_ptr + rows * 128 + STEP * column)
        tl.store(y_ptr + tl.arange(0, 16)[:, None] * 64 + column, found)


@pytest.mark.parametrize("chip", CHIPS)
def test_only_rows_at_loaded_places_have_neighbours(chip: str) -> None:
    given = (torch.zeros(1, 2048), torch.zeros(1024, dtype=torch.int32), torch.zeros(1, 1024))
    breaches = [
        str(compile_launch(Launch(_gather_kernel, (*given, step), 1), CHIPS[chip]).breaches())
        for step in (0, 1, 2)
    ]
    assert ["in accesses of 16 and more" in each for each in breaches] == [False, False, True]


@triton.jit
def _moved_kernel(x_ptr, y_ptr, BY: tl.constexpr):
    place = tl.arange(0, 1024)
    tl.store(y_ptr + place, tl.load(x_ptr + (place + BY)))


@pytest.mark.parametrize("chip", ["sm_90", "gfx942"])
def test_values_moved_by_a_constant_have_as_many_neighbours_as_divide_it(chip: str) -> None:
    for by, most in ((-1, 1), (6, 2), (8, 8)):
        launch = Launch(_moved_kernel, (torch.zeros(1, 2048), torch.zeros(1, 1024), by), 1)
        usage = compile_launch(launch, CHIPS[chip])
        assert sorted(tile.beside for tile in usage.code.tiles) == [most, 16]
        assert not usage.breaches()


def test_rows_say_how_wide_accesses_may_be() -> None:
    row, few, odd = Tile(1024, 2), Tile(256, 2), Tile(1024, 4)
    assert [tile.width(128, 4096) for tile in (row, few, odd)] == [16, 4, 16]
    assert [row.width(128, adjacent) for adjacent in (64, 12, 50257)] == [16, 8, 2]
    assert dataclasses.replace(row, beside=4).width(128, 4096) == 8
    code = MachineCode(32, 0, 0, 128, (row, few), Counter({16: 1, 4: 1}), (), False)
    assert not code.narrow_accesses(4096)
    halves = dataclasses.replace(code, accesses=Counter({8: 2, 4: 1}))
    assert halves.narrow_accesses(4096)
    assert not halves.narrow_accesses(12)


def test_rows_apart_by_an_argument_have_its_neighbours() -> None:
    """Heads of 12 lie one after the other, but of a token's 2 the compiler knows nothing."""
    x, y = torch.zeros(1, 32, 2, 12), torch.zeros(1, 32, 4, 12)
    assert Launch(sum_kernel, (x, x, 24), 4).adjacent == 1
    assert Launch(sum_kernel, (y, y, 48), 4).adjacent == Launch(sum_kernel, (x, x), 4).adjacent == 12


@triton.jit
def _dot_kernel(a_ptr, b_ptr, c_ptr):
    row, column = tl.arange(0, 64)[:, None], tl.arange(0, 64)[None, :]
    place = row * 64 + column
    product = tl.dot(tl.load(a_ptr + place), tl.load(b_ptr + place), input_precision="ieee")
    tl.store(c_ptr + place, product)


@pytest.mark.parametrize("chip", few(CHIPS, 2))
def test_dots_beside_the_tensor_cores_are_found(chip: str) -> None:
    """In float32 none is wanted: NVIDIA's would round."""
    for dtype, dots in ((torch.bfloat16, (64,)), (torch.float32, ())):
        matrix = torch.zeros(64, 64, dtype=dtype)
        launch = Launch(_dot_kernel, (matrix, matrix, matrix.float()), 4)
        code = compile_launch(launch, CHIPS[chip]).code
        assert code.dots == dots
        assert not code.missing_tensor_cores()
        without = dataclasses.replace(code, tensor_cores=False)
        assert bool(without.missing_tensor_cores()) == bool(dots)


def test_products_may_be_stored_as_matrix_instructions_leave_them() -> None:
    """On AMD's chips four values beside one another, 8 bytes in half precision."""
    matrix = torch.zeros(64, 64, dtype=torch.bfloat16)
    launch = Launch(_dot_kernel, (matrix, matrix, matrix), 1)
    for chip, most in (("sm_90", 16), ("gfx942", 4)):
        usage = compile_launch(launch, CHIPS[chip])
        assert sorted(tile.beside for tile in usage.code.tiles) == sorted((most, 16, 16))
        assert not usage.breaches()


_FEW_POSITIONS = """
arch A(d = 64) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 9, d) as wte + embedding(positions(tokens), 20, d) as wpe
    return linear(rms_norm(x, 1e-6) as norm, 9) as head
  }
}
model a = A()
"""


@pytest.mark.parametrize("length", [2, 30])  # of a sequence; there are positions for 20
def test_kernels_of_models_with_few_positions_are_found(length: int, tmp_path: Path) -> None:
    found = launches(compile_model(_FEW_POSITIONS, "a"), tmp_path, torch.bfloat16, length)
    assert "_rms_norm_backward_kernel" in {launch.name for launch in found}


def test_kernels_of_models_whose_experts_run_one_by_one_are_found(tmp_path: Path) -> None:
    """Such experts ask which tokens are theirs, which tensors without memory do not tell."""
    y = "cast_like(linear(upcast(x), 16, wide = true) as up, x) * x"
    chosen = "_, chosen = top_k(linear(x, 4) as gate, 2)"
    body = f"{chosen}  return experts e in chosen of 4 as experts {{ return {y} }}"
    spec = f"arch A() {{ forward(x: float[B, T, 16]) {{ {body} }} }}\nmodel a = A()"
    found = launches(compile_model(spec, "a"), tmp_path, torch.bfloat16)
    assert any("mul" in launch.name for launch in found)


def test_launches_differ_by_what_they_are_specialised_for() -> None:
    chip = CHIPS["sm_90"]
    x, y = torch.zeros(1024), torch.zeros(2)
    keys = {
        Launch(sum_kernel, (x, y), 4).key(chip),
        Launch(sum_kernel, (x, y), 8).key(chip),
        Launch(sum_kernel, (x, y[1:]), 4).key(chip),  # not at a multiple of 16 bytes
        Launch(sum_kernel, (x.bfloat16(), y), 4).key(chip),
        Launch(sum_kernel, (x, y), 4).key(CHIPS["sm_80"]),
    }
    assert len(keys) == 5
