"""Results as a person reads them in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from archc.benchmarking.results import Pair, Result, Skip, pairs
from archc.quantities import with_unit

_SHOWN = 3  # cases that a line on what was skipped names


def print_result(result: Result, console: Console) -> None:
    """A table of models, one of kernels, and a line for everything that was skipped."""
    console.print(f"{result.subject.title} on {device_text(result)}", style="bold")
    rates = result.rates
    console.print(f"probes: copy {rates.bandwidth / 1e9:,.1f} GB/s, matmul {rates.flops / 1e9:,.0f} GFLOP/s")
    for kind, heading in (("model", "whole model"), ("kernel", "kernels")):
        chosen = [pair for pair in pairs(result.findings) if pair.ours.case.kind == kind]
        if chosen:
            console.print(_table(heading, chosen))
    if result.findings.skipped:
        console.print("skipped:")
    for line in skip_lines(result.findings.skipped):
        console.print(f"  {line}")


def device_text(result: Result) -> str:
    """`AMD EPYC, 2 threads`, or the GPU's name."""
    device = result.device
    if device["type"] != "cpu":
        return str(device["name"])
    return f"{device['name']}, {device['threads']} thread{'' if device['threads'] == 1 else 's'}"


# Columns beside those of the case and the peer, and how many of them a kernel has.
_COLUMNS = ("archc", "peer", "ratio", "±", "roofline", "tokens/s", "memory", "peer's")
_OF_KERNELS = 5


def _table(heading: str, shown: Sequence[Pair]) -> Table:
    kernels = all(pair.ours.case.kind == "kernel" for pair in shown)
    table = Table(title=heading, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("case")
    table.add_column("peer")
    columns = _COLUMNS[:_OF_KERNELS] if kernels else _COLUMNS
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    last = ""
    for pair in shown:
        title = pair.ours.case.title
        cells = (pair.theirs.contender, *figures(pair)[: len(columns)])
        table.add_row("" if title == last else title, *cells)
        last = title
    return table


def figures(pair: Pair) -> tuple[str, ...]:
    """Both times, their ratio and its noise; archc's fraction and tokens; both peaks of memory."""
    ours, theirs = pair.ours, pair.theirs
    return (
        with_unit(ours.times.median, "s"),
        with_unit(theirs.times.median, "s"),
        f"{pair.ratio:.2f}",
        f"{pair.noise:.2f}",
        "" if ours.fraction is None else f"{ours.fraction:.0%}",
        f"{ours.tokens_per_second:,.0f}",
        "" if ours.peak is None else with_unit(ours.peak, "B"),
        "" if theirs.peak is None else with_unit(theirs.peak, "B"),
    )


def skip_lines(skipped: Iterable[Skip]) -> list[str]:
    """A line for each reason and peer, with the cases that it holds for."""
    grouped: dict[tuple[str, str], list[Skip]] = {}
    for skip in skipped:
        grouped.setdefault((skip.reason, skip.peer), []).append(skip)
    lines = []
    for (reason, peer), group in grouped.items():
        needs = sum(skip.needs or 0.0 for skip in group)
        seconds = f", about {needs:.0f} s" if needs else ""
        cases = "; ".join(skip.case for skip in group[:_SHOWN])
        if len(group) > _SHOWN:
            cases += f"; and {len(group) - _SHOWN} more"
        lines.append(f"{f'{peer}: ' if peer else ''}{reason}{seconds} ({cases})")
    return lines
