"""`archc verify`: a model's stages and package held to the float64 run of its graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from archc import compiler
from archc.analysis.parameters import count_parameters
from archc.compiler import Compilation
from archc.console import output
from archc.errors import ArchcError
from archc.ir.program import Program
from archc.passes.context import Context
from archc.settings import parse_settings
from archc.verification.outcome import Outcome
from archc.verification.packages import check_package
from archc.verification.stages import check_stages

MAX_PARAMETERS = 200_000_000  # in float64, several times over
_SMALL = 1_000_000  # parameters of a model whose matrices a second thread only delays


def verify(path: Path, model: str | None, settings: tuple[str, ...], each_pass: bool) -> bool:
    """Verify a spec's models, printing a table for each; whether everything holds."""
    spec = compiler.read_spec_file(path)
    names = compiler.choose_models(spec, model)
    console = output()
    holds = True
    verified = 0
    for program in compiler.lower_models(spec, names, parse_settings(settings)):
        compilation = compiler.compile_program(program, spec.rules)
        count = count_parameters(compilation.reference).total
        if count > MAX_PARAMETERS:
            fits = f"more than the {MAX_PARAMETERS:,} that fit in float64"
            console.print(f"{program.name}: left out, its {count:,} parameters are {fits}")
            continue
        if count < _SMALL:
            torch.set_num_threads(1)
        outcomes = _told(outcomes_of(program, compilation, each_pass), program.name)
        _print(program.name, outcomes, console)
        holds &= all(outcome.holds for outcome in outcomes)
        verified += 1
    if not verified:
        raise ArchcError("nothing was verified: give a smaller size, as in `--set layers=2 --set d=64`")
    return holds


def outcomes_of(program: Program, compilation: Compilation, each_pass: bool) -> Iterator[Outcome]:
    """All outcomes for a model: the stages first, then the package."""
    context = Context(compilation.context.rules, compilation.context.target)
    yield from check_stages(program, context, each_pass)
    yield from check_package(compilation)


def _told(outcomes: Iterator[Outcome], name: str) -> list[Outcome]:
    """All outcomes, the last one shown on a terminal meanwhile: a large model takes minutes."""
    found: list[Outcome] = []
    with Console(stderr=True).status(Text(name)) as status:
        for outcome in outcomes:
            found.append(outcome)
            told = f"{name}: {len(found)} comparisons, {outcome.subject}, {outcome.check}"
            status.update(Text(told))
    return found


def _print(name: str, outcomes: list[Outcome], console: Console) -> None:
    """A row for each subject and check: the case that comes nearest to its limit, or failures one by one.

    Passes that change nothing have none.
    """
    outcomes = [outcome for outcome in outcomes if not outcome.repeats]
    table = Table("what", "check", title=name, title_justify="left")
    table.add_column("worst case", overflow="fold")
    for column in ("error", "limit", ""):
        table.add_column(column, no_wrap=True)
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.subject, outcome.check), []).append(outcome)
    for (subject, check), members in groups.items():
        failed = [outcome for outcome in members if not outcome.holds]
        worst = max(members, key=lambda outcome: outcome.error / (outcome.limit or 1))
        for outcome in failed or [worst]:
            verdict = Text("ok") if outcome.holds else Text(f"off {outcome.detail}", "red")
            table.add_row(
                subject, check, outcome.case, _number(outcome.error), _number(outcome.limit), verdict
            )
    console.print(table)
    failures = sum(not outcome.holds for outcome in outcomes)
    console.print(f"{len(outcomes)} comparisons, {failures or 'none'} off")


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"
