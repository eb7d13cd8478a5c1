"""Every kernel of every model of every spec, compiled for chips that need not be there.

At their real widths, forward and backward: bfloat16 for every chip, float32 for one.  None spills for want of
registers; shared memory fits; loads and stores are of 16 bytes where the rows allow it; tensor cores compute
the dots that are large enough.  Small, masked blocks of every fusion are compiled too.

That is some 9,000 kernels, hours of one core in all.  The default suite has those of every spec's first model
and the masked blocks, and compiles what has changed since compiled.txt was written; see compiled.py.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from _pytest.mark import ParameterSet

from archc.errors import ArchcError
from archc.tuned import ROWS, Entry, Provenance, Tuned
from archc.tuning.choice import problems
from archc.tuning.search import tiles
from archc.verification.chips import CHIPS
from archc.verification.compiling import compile_launch
from archc.verification.launch import Launch
from archc.verification.launches import launches
from tests.analysis.models import MODELS
from tests.codegen import compiled
from tests.codegen.compiled import (
    ALL,
    BY_CHANNEL,
    DEFAULT,
    FIRST_MODELS,
    MAIN,
    OTHERS,
    USUAL,
    breaches,
    by_digest,
    of_fusion,
    of_model,
    of_recurrence,
)
from tests.codegen.hard_kernels import HARD
from tests.codegen.kernel_cases import FIRST, RULES
from tests.codegen.test_compiling import crowded_kernel, sum_kernel
from tests.support import ROOT, compile_model, shared_folder


@pytest.fixture(scope="module", autouse=True)
def _empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile every kernel anew, once for all test processes of a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(shared_folder(tmp_path_factory, "triton")))
        yield


def _case(quick: bool, *values: object) -> ParameterSet:
    name = "-".join(str(value).removeprefix("torch.") for value in values)
    return pytest.param(*values, marks=() if quick else pytest.mark.slow, id=name)


@pytest.mark.parametrize(
    ("name", "chip"), [_case(chip == MAIN, name, chip) for name in FIRST for chip in CHIPS]
)
def test_kernels_of_every_rule(name: str, chip: str) -> None:
    found = of_fusion(name)
    backward = "" if RULES[name] == "position_scale" else "_backward"  # whose gradient is the same kernel
    assert {launch.name for launch in found} >= {f"_{name}_kernel", f"_{name}{backward}_kernel"}
    assert not breaches(found, chip)


@pytest.mark.parametrize(("model", "dtype", "chip"), [_case(case in DEFAULT, *case) for case in ALL])
def test_kernels_of_every_model(model: str, dtype: torch.dtype, chip: str) -> None:
    found = of_model(model, dtype)
    assert found
    assert not breaches(found, chip)


@pytest.mark.parametrize(
    ("form", "dtype", "chip"),
    [_case(way == USUAL, form, *way) for form in BY_CHANNEL for way in (USUAL, *OTHERS)],
)
def test_recurrences_whose_decays_differ_by_channel(form: str, dtype: torch.dtype, chip: str) -> None:
    found = of_recurrence(form, dtype)
    assert "_linear_attention_channel_gradients_kernel" in {launch.name for launch in found}
    assert not breaches(found, chip)


@pytest.mark.parametrize(
    ("name", "chip"), [_case(chip == MAIN, name, chip) for name in HARD for chip in CHIPS]
)
def test_hard_kernels(name: str, chip: str) -> None:
    found = HARD[name]()
    assert found
    assert not breaches(found, chip)


_BY_CHUNKS = ("mamba2_130m", "qwen3_next_80b_a3b")  # recurrences, whose chunks have loads along tokens


@pytest.mark.parametrize(
    ("model", "length"),
    [
        _case(model == FIRST_MODELS[0], model, length)
        for model in (*sorted(path.name for path in (ROOT / "generated").iterdir()), *_BY_CHUNKS)
        for length in (1, 16)
    ],
)
def test_lengths_that_launches_are_specialised_for(model: str, length: int) -> None:
    """One token, which is a constant for the compiler, and a number of them that is divisible by 16."""
    assert not breaches(of_model(model, torch.bfloat16, length), MAIN)


def test_kernels_are_compiled_once_for_numbers_that_make_no_difference() -> None:
    """How many programs share the keys of a step, and rows whose number 16 divides or not."""
    found = by_digest(of_model("qwen3_next_80b_a3b", torch.bfloat16), MAIN).values()
    times = Counter(launch.name for launch in found)
    chunks = {launch.name for launch in found if "CHUNK" in dict(launch.constants)}
    assert len(chunks) == 7
    assert all(times[name] == 1 for name in (*chunks, "_embedding_gradient_kernel"))
    assert times["_attention_step_kernel"] == 2  # with padding and without


def test_states_are_laid_out_for_sums_over_keys() -> None:
    """As they are loaded: laid out as a token's keys they took 167 registers, and thrice the instructions."""
    found = of_model("qwen3_next_80b_a3b", torch.bfloat16)
    steps = [launch for launch in found if launch.name == "_linear_attention_kernel"]
    assert steps
    assert compile_launch(steps[0], CHIPS[MAIN]).code.registers <= 128


TILE_CASES = [
    _case(chip == MAIN and not every, rows, every, chip)
    for rows in ROWS
    for every, chip in (*((False, chip) for chip in CHIPS), (True, MAIN))
]


@pytest.mark.parametrize(("rows", "every", "chip"), TILE_CASES)
def test_tiles_that_are_tried_for_linear_maps(rows: int, every: bool, chip: str, tmp_path: Path) -> None:
    """The likeliest one for all chips, every one for one: other chips may have too little shared memory."""
    compilation = compile_model(MODELS["gpt2_medium"], "gpt2_medium")
    after_attention = next(each for each in problems(compilation, "bfloat16") if each.outputs == each.inputs)
    problem = dataclasses.replace(after_attention, rows=rows)
    source = Provenance("a GPU", "3.9.0", "2.13.0", "2026-11-25")
    for tile in tiles(problem)[: None if every else 1]:
        tuned = Tuned((Entry(problem, tile, 1.0, 2.0, source),))
        found = launches(dataclasses.replace(compilation, tuned=tuned), tmp_path, torch.bfloat16)
        own = [launch for launch in found if launch.name.startswith("_linear_row")]
        assert len(own) == 1, "with the bias that it has"
        assert not breaches(own, chip)


def test_experts_are_launched_as_the_model_does() -> None:
    """Tokens are gathered for the first product alone; by as many choices as there are; few and many rows."""
    found = [dict(launch.constants) for launch in of_model("mixtral_8x7b", torch.bfloat16)]
    products = [each for each in found if {"ROWS", "COUNT"} <= each.keys()]
    assert {(each.get("CHOICES"), each.get("IN")) for each in products} == {
        (2, 4096),  # tokens times gates and what is gated
        (None, None),  # what came of it, and the gradients of both: one kernel for all widths
    }
    assert {each["ROWS"] for each in products} == {16, 128}


def test_a_chip_has_the_tiles_that_a_package_chooses_there() -> None:
    steps = [
        each
        for each in of_model("deepseek_v3", torch.bfloat16)
        if each.name.endswith("_attention_step_kernel")
    ]
    tiles_of = {
        name: {
            (own["HEADS"], own["TILE"])
            for step in steps
            if step.belongs_to(chip) and not (own := dict(step.constants))["PADDED"]
        }
        for name, chip in CHIPS.items()
    }
    few, many = (32, 64), (64, 32)  # query heads and keys of a program, for few sequences and many
    assert tiles_of == {"sm_80": {few}, "sm_90": {few, many}, "sm_100": {few, many}, "gfx942": {(32, 16)}}


def test_a_process_that_interprets_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ArchcError, match="would interpret"):
        launches(compile_model(MODELS["gpt2"], "gpt2"), tmp_path, torch.bfloat16)


def test_what_has_changed_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither another text, nor other facts, options, chips, nor anything where it is judged otherwise."""

    def launch(size: int, warps: int, dtype: torch.dtype = torch.float32) -> Launch:
        return Launch(crowded_kernel, (torch.zeros(1, size, dtype=dtype), torch.zeros(1, size), size), warps)

    usual = [launch(1024, 4)]
    monkeypatch.setattr(compiled, "known", lambda: {*compiled.by_digest(usual, MAIN)})
    assert not compiled.unknown(usual, MAIN)
    assert compiled.unknown(usual, "sm_80")
    changed = [launch(2048, 4), launch(1024, 8), launch(1024, 4, torch.bfloat16)]
    changed.append(Launch(sum_kernel, (torch.zeros(1024), torch.zeros(1)), 4))
    assert len(compiled.unknown(changed, MAIN)) == len(changed)


def test_nothing_is_known_of_another_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "compiled.txt"
    monkeypatch.setattr(compiled, "FILE", own)
    compiled.write({"a digest"})
    assert compiled.known.__wrapped__() == {"a digest"}
    own.write_text(own.read_text().replace("triton 3", "triton 2"))
    assert not compiled.known.__wrapped__()


def test_what_is_noted_was_judged_as_it_is_now() -> None:
    """Else every run of these tests compiles everything; `make kernels` notes it again.

    With another Triton than the noted one nothing is known either, but how it is judged is the same.
    """
    noted, now = compiled.FILE.read_text().splitlines()[0], compiled.toolchain()
    assert noted.partition(", ")[2] == now.partition(", ")[2]
