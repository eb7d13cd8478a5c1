"""Results as a picture: how many times as fast as each peer, case by case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archc.benchmarking.results import Pair, Result, pairs
from archc.benchmarking.table import device_text
from archc.quantities import with_unit

_ROW = 0.17  # inches
_WIDTH = 11.0


def draw(results: Sequence[Result], path: Path) -> None:
    """A panel for each result: a bar for each case and peer, and the figures beside it."""
    from matplotlib.figure import Figure

    shown = [(result, pairs(result.findings)) for result in results if result.findings.measurements]
    if not shown:
        return
    heights = [len(found) + 6 for _, found in shown]
    figure = Figure(figsize=(_WIDTH, _ROW * sum(heights) + 1.0), layout="constrained")
    axes = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (result, found) in zip(axes, shown, strict=True):
        _panel(axis, result, found)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(axis: Any, result: Result, found: Sequence[Pair]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    peers = list(dict.fromkeys(pair.theirs.contender for pair in found))
    places = list(range(len(found)))
    colours = [f"C{peers.index(pair.theirs.contender)}" for pair in found]
    axis.barh(places, [pair.ratio - 1 for pair in found], left=1.0, color=colours, height=0.7)
    axis.axvline(1.0, color="0.2", linewidth=1)
    axis.set_xscale("log", base=2)
    axis.set_xlim(
        min(0.5, *(pair.ratio / 1.1 for pair in found)), max(2.0, *(pair.ratio * 1.1 for pair in found))
    )
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _place: f"{x:g}x"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.set_yticks(places, [_label(pair) for pair in found], fontsize=7)
    axis.set_ylim(len(found) - 0.4, -0.6)
    figures = axis.secondary_yaxis("right")
    figures.set_yticks(places, [_figures(pair) for pair in found], fontsize=7)
    figures.tick_params(length=0)
    axis.set_xlabel(
        "how many times as fast as the peer archc is; right of the line archc is faster", fontsize=8
    )
    axis.set_title(_title(result), fontsize=8, loc="left")


def _title(result: Result) -> str:
    """What was run, where, when, and by which versions."""
    told, rates = result.environment, result.rates
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items() if version)
    return (
        f"{result.subject.title}, on {device_text(result)}\n"
        f"copy {rates.bandwidth / 1e9:,.1f} GB/s, matmul {rates.flops / 1e9:,.0f} GFLOP/s; "
        f"{str(told['date'])[:10]}, commit {told['commit']}\n{versions}"
    )


def _label(pair: Pair) -> str:
    return f"{pair.ours.case.title}, against {pair.theirs.contender}"


def _figures(pair: Pair) -> str:
    """The ratio and its noise, both times, and archc's fraction of the roofline."""
    ours, theirs = (with_unit(m.times.median, "s") for m in (pair.ours, pair.theirs))
    text = f"{pair.ratio:.2f}x ± {pair.noise:.2f}, {ours} against {theirs}"
    return text if pair.ours.fraction is None else f"{text}; {pair.ours.fraction:.0%} of the roofline"
