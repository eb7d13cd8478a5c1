"""`archc tune`: the search with given times, the table, and what is told without a GPU."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from archc.benchmarking.timing import ClockTimer
from archc.cli import main
from archc.errors import ArchcError
from archc.tuned import SHIPPED, Entry, Problem, Provenance, Tile, Tuned, read_table, read_tables, write_table
from archc.tuning import choice
from archc.tuning.after import AfterRuns
from archc.tuning.choice import measured, problems, problems_after
from archc.tuning.gpu import LinearRuns, Meter, linear_function
from archc.tuning.room import notes_on
from archc.tuning.search import LIBRARY, Contender, Found, after_tiles, search, tiles
from tests.benchmarking.clocks import Ticking
from tests.codegen.interpreter import interpreted
from tests.support import SPECS, compile_model

HERE = Provenance("a GPU", "3.9.0", "2.13.0", "2026-11-25")
THERE = replace(HERE, gpu="another GPU")
WIDE, SMALL = Problem(1, 4096, 4096), Problem(16, 64, 100)


class Clock:
    """A clock that goes on only as it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """Times of a machine on which the tile of `best` is the fastest, and some cannot run."""

    def __init__(self, best: int, library: float, fails: int = 0):
        self.clock = Clock()
        self.asked: list[tuple[Problem, float]] = []
        self._best, self._library, self._fails = best, library, fails

    def __call__(
        self, problem: Problem, contenders: Sequence[Contender], seconds: float
    ) -> Mapping[Contender, float]:
        self.clock.now += seconds
        self.asked.append((problem, seconds))
        return {each: self._seconds(problem, each) for each in contenders if self._can(problem, each)}

    def _can(self, problem: Problem, contender: Contender) -> bool:
        return contender is LIBRARY or tiles(problem).index(contender) >= self._fails

    def _seconds(self, problem: Problem, contender: Contender) -> float:
        if contender is LIBRARY:
            return self._library
        return 1e-5 + 1e-6 * abs(tiles(problem).index(contender) - self._best)


def _search(machine: Machine, wanted: Sequence[Problem], budget: float = 10.0) -> list[Found]:
    return list(search({each: tiles(each) for each in wanted}, machine, HERE, budget, machine.clock))


@pytest.mark.parametrize("problem", [WIDE, SMALL])
@pytest.mark.parametrize("best", [0, 5])
def test_the_fastest_tile_is_found(problem: Problem, best: int) -> None:
    (found,) = _search(Machine(best, 2e-5), [problem])
    assert found.entry == Entry(problem, tiles(problem)[best], 10.0, 20.0, HERE)
    assert found.entry.is_chosen


def test_a_library_that_is_as_fast_is_kept() -> None:
    (found,) = _search(Machine(0, 1.01e-5), [WIDE])
    assert found.entry is not None
    assert not found.entry.is_chosen


def test_tiles_that_cannot_run_are_left_out() -> None:
    (found,) = _search(Machine(0, 2e-5, fails=4), [WIDE])
    assert found.entry is not None
    assert found.entry.tile == tiles(WIDE)[4]
    (none,) = _search(Machine(0, 2e-5, fails=1000), [WIDE])
    assert (none.entry, none.reason) == (None, "no tile could run")


def test_a_budget_is_shared_and_kept() -> None:
    machine = Machine(0, 2e-5)
    _search(machine, [WIDE, SMALL], budget=8.0)
    assert machine.clock.now == pytest.approx(8.0)
    assert sum(seconds for problem, seconds in machine.asked if problem == WIDE) == pytest.approx(4.0)

    def slow(problem: Problem, contenders: Sequence[Contender], seconds: float) -> Mapping[Contender, float]:
        machine.clock.now += 6.0
        return machine(problem, contenders, 0.0 * seconds)

    found = list(search({each: tiles(each) for each in (WIDE, SMALL)}, slow, HERE, 8.0, machine.clock))
    assert [each.entry is None for each in found] == [False, True]
    assert found[1].reason == "no time was left"


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (5, 7), (576, 1536), (128256, 16384)])
def test_tiles_are_those_that_triton_takes(rows: int, outputs: int, inputs: int) -> None:
    found = tiles(Problem(rows, outputs, inputs))
    assert found
    assert len(set(found)) == len(found)
    for tile in found:
        assert all(math.log2(size).is_integer() for size in (tile.outputs, tile.inputs, tile.warps))
        assert rows == 1 or (tile.outputs >= 16 and tile.inputs >= 16), "a dot has 16 of each at least"


def test_the_heaviest_weights_come_first() -> None:
    found = problems(compile_model(SPECS / "llama3.arch", "llama3_8b"), "bfloat16")
    assert [each.elements for each in found] == sorted((each.elements for each in found), reverse=True)
    shapes = {(each.outputs, each.inputs) for each in found}
    assert shapes == {(128256, 4096), (28672, 4096), (4096, 14336), (6144, 4096), (4096, 4096)}
    assert {each.rows for each in found} == {1, 16}


def test_maps_in_the_kernels_of_ops_before_them_are_measured_too() -> None:
    """Each with tiles of as many columns as its kernel has at a time."""
    found = problems_after(compile_model(SPECS / "llama3.arch", "llama3_8b"), "bfloat16")
    assert {(each.after, each.outputs, each.inputs) for each in found} == {
        ("add_rms_norm", 6144, 4096),
        ("add_rms_norm", 28672, 4096),
        ("swiglu", 4096, 14336),
    }
    for kernel in found.values():
        tried = after_tiles(kernel.row.block)
        assert len(set(tried)) == len(tried) > 3
        assert {tile.inputs for tile in tried} == {kernel.row.block}


def test_what_no_call_uses_is_not_told() -> None:
    """A map that is always in the kernel of the op before it has no tile of its own for one row."""
    compilation = compile_model(SPECS / "llama3.arch", "llama3_8b")
    entries = measured(compilation.planner.kernels, compilation.tuned)
    told = {(each.problem.outputs, each.problem.inputs) for each in entries}
    assert (4096, 4096) in told
    assert {(each.outputs, each.inputs) for each in problems_after(compilation, "bfloat16")}.isdisjoint(told)


@pytest.mark.parametrize("columns", [1, 48, 16384])
def test_any_row_has_a_tile(columns: int) -> None:
    width = 1 << (columns - 1).bit_length()
    for tile in after_tiles(width):
        assert not tile.fault(1)


def test_a_table_divides_maps_after_ops_or_parts_them(tmp_path: Path) -> None:
    """By the largest map of a kernel; `archc explain` tells what was measured of it."""
    compilation = compile_model(SPECS / "llama3.arch", "llama3_tiny")
    norms = [problem for problem in problems_after(compilation, "bfloat16") if "norm" in problem.after]
    large, small = sorted(norms, key=lambda problem: -problem.elements)
    entries = [
        Entry(large, Tile(8, 64, 2, 1), 1.0, 2.0, HERE),
        Entry(small, Tile(1, 64, 1, 1), 1.0, 2.0, HERE),
    ]
    table = tmp_path / "t.json"
    write_table(table, Tuned(tuple(entries)))
    assert read_table(table).entries == tuple(entries)
    spec = [str(SPECS / "llama3.arch"), "--model", "llama3_tiny", "--table", str(table)]
    told = " ".join(CliRunner().invoke(main, ["explain", *spec]).output.split())
    assert f"{large.outputs} x {large.inputs}" in told
    assert "8 x 64, 2 warps" in told
    divided = problems_after(replace(compilation, tuned=read_table(table)), "float16").values()
    kernel = next(each for each in divided if "norm" in each.name)
    assert (kernel.outputs, kernel.row.warps) == (8, 2)
    assert str(HERE) in kernel.remark
    slower = replace(entries[0], microseconds=3.0)
    apart = problems_after(replace(compilation, tuned=Tuned((slower, entries[1]))), "bfloat16")
    assert large not in apart
    assert small in apart


def _entry(problem: Problem = WIDE, source: Provenance = HERE, microseconds: float = 1.0) -> Entry:
    tile = Tile(4, 1024, 4, 1) if problem.rows == 1 else Tile(16, 64, 4, 3)
    return Entry(problem, tile, microseconds, 2.0, source)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = Tuned((_entry(), _entry(SMALL, THERE)))
    write_table(tmp_path / "t.json", table)
    assert read_table(tmp_path / "t.json") == table
    assert read_tables(tmp_path / "t.json").entries[:2] == table.entries
    assert read_tables() == read_table(SHIPPED)


def test_new_measurements_replace_those_of_the_same_gpu() -> None:
    table = Tuned((_entry(), _entry(source=THERE), _entry(SMALL)))
    new = _entry(microseconds=1.5)
    assert table.updated([new]).entries == (new, _entry(source=THERE), _entry(SMALL))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is no table"),
        ("[]", "is no table"),
        ('{"entries": [{}]}', "'rows' is missing"),
        (json.dumps({"entries": [_entry().as_json() | {"warps": 0}]}), "`warps` is no positive whole number"),
        (json.dumps({"entries": [_entry().as_json() | {"gpu": 3}]}), "`gpu` is no short text"),
        (json.dumps({"entries": [_entry().as_json() | {"warp": 3}]}), "an entry has no `warp`"),
        (json.dumps({"entries": [_entry().as_json() | {"rows": 3}]}), "`rows` is none of 1, 16"),
        (json.dumps({"entries": [_entry().as_json() | {"library": math.nan}]}), "must be times"),
        (json.dumps({"entries": [_entry().as_json() | {"tile_inputs": 1000}]}), "must be powers of two"),
        (json.dumps({"entries": [_entry().as_json() | {"tile_inputs": 1 << 40}]}), "at most 1,048,576"),
        (json.dumps({"entries": [_entry().as_json() | {"stages": 10**9}]}), "16 warps and 16 stages"),
        (json.dumps({"entries": [_entry().as_json() | {"rows": 16}]}), "at least 16 outputs and inputs"),
        (json.dumps({"entries": [_entry(SMALL).as_json() | {"after": "swiglu"}]}), "for one row only"),
        (json.dumps({"entries": [_entry().as_json() | {"dtype": "x); import os"}]}), "dtype"),
        (json.dumps({"entries": [_entry().as_json() | {"gpu": 'a"""\nimport os'}]}), "gpu"),
        ("[" * 100_000, "is no table"),
    ],
)
def test_what_is_no_table_is_told(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(ArchcError) as caught:
        read_table(path)
    assert told in str(caught.value)
    assert "t.json" in str(caught.value)


def test_a_table_that_is_not_there_is_told(tmp_path: Path) -> None:
    command = ["build", str(SPECS / "llama3.arch"), "--model", "llama3_tiny", "-o", str(tmp_path)]
    result = CliRunner().invoke(main, [*command, "--table", str(tmp_path / "none.json")])
    assert result.exit_code == 1
    assert result.stderr.startswith("cannot read")


def test_a_table_tells_the_chips_that_its_tiles_are_too_large_for(tmp_path: Path) -> None:
    """By the tile that was measured on an H200 and did not fit on gfx942, and by one that fits nowhere."""
    path = tmp_path / "t.json"
    large = Entry(Problem(16, 8, 8), Tile(32, 256, 4, 4), 1.0, 2.0, HERE)
    write_table(path, Tuned((_entry(), large, replace(large, problem=Problem(16, 9, 9)))))
    (note,) = notes_on(path)
    assert "gfx942 does not have the 73,728 bytes of shared memory that 16 x 8 by 8 x 8" in note
    assert "and so for 1 more" in note
    write_table(path, Tuned((replace(large, tile=Tile(64, 512, 4, 8)),)))
    with pytest.raises(ArchcError, match="no chip has the 573,440 bytes"):
        list(notes_on(path))


def test_a_build_takes_a_table_and_remembers_it(tmp_path: Path) -> None:
    """A changed table is a reason to build again; explain says where its entries do not belong."""
    table, out = tmp_path / "t.json", tmp_path / "out"
    wanted = problems(compile_model(SPECS / "llama3.arch", "llama3_tiny"), "bfloat16")[1]  # of 16 rows
    write_table(table, Tuned((_entry(wanted, replace(HERE, triton="2.0.0")),)))
    spec = [str(SPECS / "llama3.arch"), "--model", "llama3_tiny", "--table", str(table)]
    run = CliRunner().invoke
    assert run(main, ["build", *spec, "-o", str(out)]).exit_code == 0
    assert "_LINEAR_TILES" in (out / "llama3_tiny" / "kernels.py").read_text()
    assert run(main, ["build", "--check", "-o", str(out)]).exit_code == 0
    assert "here is Triton" in " ".join(run(main, ["explain", *spec]).output.split())
    write_table(table, Tuned())
    assert run(main, ["build", "--check", "-o", str(out)]).exit_code == 1
    assert "kernels.py" in run(main, ["build", *spec, "-o", str(out)]).output
    assert "_LINEAR_TILES" not in (out / "llama3_tiny" / "kernels.py").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_sentence_says_so() -> None:
    result = CliRunner().invoke(main, ["tune", str(SPECS / "llama3.arch"), "--model", "llama3_tiny"])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "no GPU" in result.stderr


def test_the_gpu_at_hand_is_found_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_NVIDIA", tmp_path)
    assert choice.gpu_at_hand() is None
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 12\n")
    assert choice.gpu_at_hand() == "NVIDIA H100 80GB HBM3"
    assert not HERE.doubts("a GPU", "3.9.0")
    assert HERE.doubts("NVIDIA H100 80GB HBM3", None) == "here is NVIDIA H100 80GB HBM3"


@interpreted
def test_the_kernels_of_a_package_are_timed() -> None:
    """On the CPU, where Triton interprets: what cannot run is left out, the library is there."""
    compilation = compile_model(SPECS / "llama3.arch", "llama3_tiny")
    for problem in (Problem(1, 24, 40, "float32"), Problem(16, 24, 40, "float32")):
        with linear_function(compilation, problems(compilation, "float32")[0], HERE) as function:
            device = torch.get_default_device()
            meter = Meter(LinearRuns(function, device), ClockTimer(), device, Ticking())
            good, bad = tiles(problem)[0], Tile(3, 5, 1, 1)  # ranges that are no powers of two
            found = meter(problem, [LIBRARY, good, bad], 0.01)
        assert set(found) == {LIBRARY, good}
        assert all(time > 0 for time in found.values())


@interpreted
def test_maps_after_ops_are_timed_beside_the_two_kernels() -> None:
    """Each contender by a package of its own, whose results are those of the two kernels."""
    compilation = compile_model(SPECS / "gpt2.arch", "gpt2_tiny")
    device = torch.get_default_device()
    with AfterRuns([compilation], "float32", Tuned, HERE, device) as runs:
        for problem, kernel in problems_after(compilation, "float32").items():
            tile = after_tiles(kernel.row.block)[0]
            calls = runs(problem, [LIBRARY, tile])
            with torch.no_grad():
                together, apart = (_product(call()) for call in (calls[tile], calls[LIBRARY]))
            assert together.shape == (1, 1, problem.outputs)
            assert apart.shape == together.shape
        times = Meter(runs, ClockTimer(), device, Ticking())(problem, [LIBRARY, tile], 0.01)
        assert all(time > 0 for time in times.values())
        assert set(times) == {LIBRARY, tile}


def _product(results: object) -> torch.Tensor:
    found = results[-1] if isinstance(results, tuple) else results
    assert isinstance(found, torch.Tensor)
    return found
