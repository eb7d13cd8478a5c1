"""`archc tune`: the linear maps of models, measured on the GPU at hand, into a table."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from archc import compiler
from archc.benchmarking.timing import own_stream, timer_for
from archc.compiler import Compilation
from archc.errors import ArchcError
from archc.settings import parse_settings
from archc.tuned import SHIPPED, Problem, Tuned, read_table, write_table
from archc.tuning.choice import problems
from archc.tuning.gpu import Meter, linear_function, provenance
from archc.tuning.search import Found, search


def tune(
    path: Path, model: str | None, settings: tuple[str, ...], dtype: str, budget: float, table: Path | None
) -> None:
    """Measure, and write the table after each model; raises `ArchcError`."""
    source = provenance()
    target = table or SHIPPED
    known = read_table(target) if target.exists() else Tuned()
    compilations = _compilations(path, model, settings)
    wanted = dict.fromkeys(problem for each in compilations for problem in problems(each, dtype))
    if not wanted:
        raise ArchcError(f"{path}: no model has a linear map that could have a kernel of its own")
    device = torch.device("cuda")
    first = next(iter(wanted))
    owner = next(each for each in compilations if first in problems(each, dtype))
    found: list[Found] = []
    with linear_function(owner, first, source) as function, own_stream(device):
        meter = Meter(function, timer_for(device), device)
        ordered = sorted(wanted, key=lambda problem: -problem.elements)
        for each in search(ordered, meter, source, budget):
            found.append(each)
            if each.entry is not None:
                known = known.updated([each.entry])
                write_table(target, known)
    _print(found, target)


def _compilations(path: Path, model: str | None, settings: tuple[str, ...]) -> list[Compilation]:
    spec = compiler.read_spec_file(path)
    names = compiler.choose_models(spec, model)
    programs = compiler.lower_models(spec, names, parse_settings(settings))
    return [compiler.compile_program(program, spec.rules) for program in programs]


def _print(found: list[Found], target: Path) -> None:
    console = Console(markup=False, highlight=False)
    table = Table("linear map", "us", "PyTorch", "tile", "used", title="tuned", title_justify="left")
    for each in found:
        table.add_row(*_row(each.problem, each))
    console.print(table)
    console.print(f"{target}: {sum(each.entry is not None for each in found)} measured")


def _row(problem: Problem, found: Found) -> tuple[str, ...]:
    if found.entry is None:
        return str(problem), "", "", "", found.reason
    entry = found.entry
    used = "the kernel" if entry.is_chosen else "PyTorch's"
    return str(problem), f"{entry.microseconds:.1f}", f"{entry.library:.1f}", str(entry.tile), used
