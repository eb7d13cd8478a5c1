"""Every kernel of every spec compiled for chips that need not be there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from archc import compiler
from archc.errors import ArchcError
from archc.verification.aot import CHIPS, Chip, KernelError, Launch, Usage, compile_launch, launches
from tests.codegen.kernel_cases import FIRST, spec_of_case
from tests.support import SPECS, compile_model

GOLDEN = ("llama3_8b", "qwen3_8b", "olmo2_7b", "gpt2", "palm_8b", "smollm2_135m")
MODELS = {
    model: path for path in sorted(SPECS.glob("*.arch")) for model in compiler.read_spec_file(path).models
}

# Rows of 12,288 values and more: the backward kernel holds four of them, more than there are registers.
SPILLING = {"gpt3_175b", "llama3_405b", "palm_540b"}
FEW_BYTES = 32  # a thread; one release of the assembler spills that much where another spills nothing
BFLOAT16 = [(torch.bfloat16, chip) for chip in CHIPS]

_usages: dict[str, Usage] = {}  # what was compiled, so that models share kernels


@pytest.fixture(scope="module", autouse=True)
def _empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile every kernel anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def _compiled(found: Iterable[Launch], chip: Chip) -> Iterator[Usage]:
    for launch in found:
        key = launch.key(chip)
        if key not in _usages:
            _usages[key] = compile_launch(launch, chip)
        yield _usages[key]


def _launches(model: str, folder: Path, dtype: torch.dtype, length: int = 2) -> list[Launch]:
    found = launches(compile_model(MODELS[model], model), folder, dtype, length)
    assert found
    return found


@pytest.mark.parametrize("name", FIRST)
def test_kernels_of_every_rule(name: str, tmp_path: Path) -> None:
    """Their blocks are small and masked."""
    compilation = compile_model(spec_of_case(name), "a")
    for dtype, chip in BFLOAT16:
        found = launches(compilation, tmp_path, dtype)
        assert {launch.name for launch in found} >= {f"_{name}_kernel", f"_{name}_backward_kernel"}
        assert all(usage.registers for usage in _compiled(found, CHIPS[chip]))


@pytest.mark.parametrize("model", MODELS)
def test_kernels_of_every_model(model: str, tmp_path: Path) -> None:
    """Bfloat16 for every chip, float32 for one; next to nothing spills but in the longest rows."""
    for dtype, chip in [*BFLOAT16, (torch.float32, "sm_90")]:
        for usage in _compiled(_launches(model, tmp_path, dtype), CHIPS[chip]):
            assert usage.spilled <= FEW_BYTES or model in SPILLING, usage


@pytest.mark.parametrize("model", GOLDEN)
@pytest.mark.parametrize("length", [1, 16])
def test_lengths_that_launches_are_specialised_for(model: str, length: int, tmp_path: Path) -> None:
    """One token, which is a constant for the compiler, and a number of them that is divisible by 16."""
    assert list(_compiled(_launches(model, tmp_path, torch.bfloat16, length), CHIPS["sm_90"]))


# ----------------------------------------------------------- controls that fail


@triton.jit
def _broken_kernel(x_ptr):
    tl.store(x_ptr + tl.arange(0, 3), 1.0)


@triton.jit
def _sum_kernel(x_ptr, y_ptr):
    tl.store(y_ptr, tl.sum(tl.load(x_ptr + tl.arange(0, 1024)), 0))


@pytest.mark.parametrize("chip", CHIPS)
def test_a_kernel_that_does_not_compile_is_named(chip: str) -> None:
    launch = Launch(_broken_kernel, (torch.zeros(4),), 4)
    with pytest.raises(KernelError, match=f"_broken_kernel for {chip}"):
        compile_launch(launch, CHIPS[chip])


def test_too_much_shared_memory_is_found() -> None:
    launch = Launch(_sum_kernel, (torch.zeros(1024), torch.zeros(1)), 4)
    chip = CHIPS["sm_90"]
    usage = compile_launch(launch, chip)
    assert usage.shared
    with pytest.raises(KernelError, match="bytes of shared memory"):
        compile_launch(launch, dataclasses.replace(chip, shared=usage.shared - 1))


def test_too_many_threads_are_found() -> None:
    launch = Launch(_sum_kernel, (torch.zeros(1024), torch.zeros(1)), 32)
    assert compile_launch(launch, CHIPS["sm_90"]).registers
    with pytest.raises(KernelError, match="2048 threads"):
        compile_launch(launch, CHIPS["gfx942"])


def test_spilled_registers_are_counted(tmp_path: Path) -> None:
    found = _launches("palm_540b", tmp_path, torch.bfloat16)
    launch = next(each for each in found if each.name == "_add_add_layer_norm_backward_kernel")
    assert all(compile_launch(launch, chip).spilled for chip in CHIPS.values())


def test_a_process_that_interprets_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ArchcError, match="would interpret"):
        _launches("gpt2", tmp_path, torch.bfloat16)


def test_launches_differ_by_what_they_are_specialised_for() -> None:
    chip = CHIPS["sm_90"]
    x, y = torch.zeros(1024), torch.zeros(2)
    keys = {
        Launch(_sum_kernel, (x, y), 4).key(chip),
        Launch(_sum_kernel, (x, y), 8).key(chip),
        Launch(_sum_kernel, (x, y[1:]), 4).key(chip),  # not at a multiple of 16 bytes
        Launch(_sum_kernel, (x.bfloat16(), y), 4).key(chip),
        Launch(_sum_kernel, (x, y), 4).key(CHIPS["sm_80"]),
    }
    assert len(keys) == 5
