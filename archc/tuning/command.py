"""`archc tune`: the linear maps of models, measured on the GPU at hand, into a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.table import Table

from archc import compiler
from archc.benchmarking.timing import Run, own_stream, timer_for
from archc.compiler import Compilation
from archc.console import output
from archc.errors import ArchcError
from archc.settings import parse_settings
from archc.tuned import NOTHING, SHIPPED, Problem, Tile, Tuned, read_table, write_table
from archc.tuning.after import AfterRuns
from archc.tuning.choice import problems, problems_after
from archc.tuning.gpu import LinearRuns, Meter, linear_function, provenance
from archc.tuning.search import Contender, Found, after_tiles, search, tiles


def tune(
    path: Path, model: str | None, settings: tuple[str, ...], dtype: str, budget: float, table: Path | None
) -> None:
    """Measure, and write the table after each model; raises `ArchcError`."""
    source = provenance()
    target = table or SHIPPED
    shipped = read_table(SHIPPED)
    known = read_table(target) if target.exists() else Tuned()
    compilations = _compilations(path, model, settings)
    wanted = _wanted(compilations, dtype)
    if not wanted:
        raise ArchcError(f"{path}: no model has a linear map that could have a kernel of its own")
    device = torch.device("cuda")
    first = next(iter(wanted))
    owner = next(each for each in compilations if first in problems(each, dtype))
    found: list[Found] = []
    with (
        linear_function(owner, first, source) as function,
        AfterRuns(
            compilations, dtype, lambda: Tuned((*known.entries, *shipped.entries)), source, device
        ) as after,
        own_stream(device),
    ):
        alone = LinearRuns(function, device)

        def runs(problem: Problem, contenders: Sequence[Contender]) -> Mapping[Contender, Run]:
            return (after if problem.after else alone)(problem, contenders)

        for measured in search(wanted, Meter(runs, timer_for(device), device), source, budget):
            found.append(measured)
            if measured.entry is not None:
                known = known.updated([measured.entry])
                write_table(target, known)
    _print(found, target)


def _wanted(compilations: Sequence[Compilation], dtype: str) -> dict[Problem, list[Tile]]:
    """What can be measured: linear maps by themselves, then in the kernels of the ops before them.

    What is known of the former decides which two kernels one of the latter stands for.
    """
    alone = {problem: tiles(problem) for each in compilations for problem in problems(each, dtype)}
    after = [problems_after(each, dtype) for each in compilations]
    together = {problem: after_tiles(kernel.row.block) for each in after for problem, kernel in each.items()}
    return _heaviest_first(alone) | _heaviest_first(together)


def _heaviest_first(wanted: dict[Problem, list[Tile]]) -> dict[Problem, list[Tile]]:
    return dict(sorted(wanted.items(), key=lambda each: -each[0].elements))


def _compilations(path: Path, model: str | None, settings: tuple[str, ...]) -> list[Compilation]:
    """Those of a spec's models, as if nothing had been measured: then all maps are offered."""
    spec = compiler.read_spec_file(path)
    names = compiler.choose_models(spec, model)
    programs = compiler.lower_models(spec, names, parse_settings(settings))
    return [compiler.compile_program(program, spec.rules, tuned=NOTHING) for program in programs]


def _print(found: list[Found], target: Path) -> None:
    console = output()
    table = Table("linear map", "us", "otherwise", "tile", "used", title="tuned", title_justify="left")
    for each in found:
        table.add_row(*_row(each.problem, each))
    console.print(table)
    console.print(f"{target}: {sum(each.entry is not None for each in found)} measured")


def _row(problem: Problem, found: Found) -> tuple[str, ...]:
    if found.entry is None:
        return str(problem), "", "", "", found.reason
    entry = found.entry
    used = "the kernel" if entry.is_chosen else "two kernels" if problem.after else "PyTorch's"
    return str(problem), f"{entry.microseconds:.1f}", f"{entry.library:.1f}", str(entry.tile), used
