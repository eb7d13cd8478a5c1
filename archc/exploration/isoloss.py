"""`archc scale --plot`: lines of equal loss over parameters and tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from archc.analysis.allocation import Demand, for_budget
from archc.analysis.laws.chinchilla import FLOPS_PER_PARAMETER
from archc.analysis.laws.law import Law
from archc.plotting import picture
from archc.quantities import quantity_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 120


def draw_iso_loss(law: Law, points: Sequence[tuple[float, float]], demand: Demand, path: Path) -> None:
    """Write the picture; `points` are N and D of models to mark.  Raises `ArchcError`."""
    sizes, tokens = _window(law, points)
    with picture(path) as axes:
        axes.set(xscale="log", yscale="log", xlim=sizes, ylim=tokens)
        _draw_losses(axes, law, sizes, tokens)
        _draw_budgets(axes, sizes, tokens)
        _draw_optimum(axes, law, Demand(), sizes, tokens, "best for training alone", "C3")
        if demand.tokens:
            label = f"best with {quantity_text(demand.tokens)} tokens served"
            _draw_optimum(axes, law, demand, sizes, tokens, label, "C1")
        for n, d in points:
            label = f"{quantity_text(n)}, {quantity_text(d)} tokens: {law.loss(n, d):.3f}"
            axes.plot([n], [d], "k*", markersize=11, label=label)
        axes.set_xlabel(f"N, {law.counts}")
        axes.set_ylabel("D, training tokens")
        axes.xaxis.set_major_formatter(_formatter())
        axes.yaxis.set_major_formatter(_formatter())
        axes.set_title(f"Loss in nats a token by the fit `{law.name}`", loc="left")
        axes.legend(loc="upper left", fontsize=8, framealpha=0.95)


def _window(
    law: Law, points: Sequence[tuple[float, float]]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """What to show: a factor of 30 around the points, and what is best for their compute."""
    n, d = zip(*points, strict=True)
    best = for_budget(law, FLOPS_PER_PARAMETER * math.prod(points[0]))
    n, d = (*n, best.parameters), (*d, best.tokens)
    return (min(n) / 30, max(n) * 30), (min(d) / 30, max(d) * 30)


def _draw_losses(axes: Axes, law: Law, sizes: tuple[float, float], tokens: tuple[float, float]) -> None:
    ns, ds = _spaced(*sizes), _spaced(*tokens)
    losses = [[law.loss(n, d) for n in ns] for d in ds]
    worst, least = math.log(losses[len(losses) // 4][len(ns) // 4]), math.log(losses[-1][-1])
    levels = [math.exp(least + (worst - least) * (i / 12) ** 1.3) for i in range(1, 13)]
    lines = axes.contour(ns, ds, losses, levels=levels, colors=_shades(len(levels)), linewidths=1.2)
    column = 3 * len(ns) // 4
    places = [(ns[column], _crossing(ds, [row[column] for row in losses], level)) for level in levels]
    axes.clabel(lines, fmt="%.3g", fontsize=7.5, manual=[place for place in places if place[1] > 1.3 * ds[0]])


def _crossing(values: Sequence[float], losses: Sequence[float], level: float) -> float:
    """The first value at which the loss is no more than a level; the first of all where all are."""
    return next((value for value, loss in zip(values, losses, strict=True) if loss <= level), 0.0)


def _draw_budgets(axes: Axes, sizes: tuple[float, float], tokens: tuple[float, float]) -> None:
    """Lines of equal training compute, a hundred times apart, named where they leave the picture."""
    low, high = (math.log10(FLOPS_PER_PARAMETER * n * d) for n, d in zip(sizes, tokens, strict=True))
    for power in range(math.ceil(low / 2) * 2, math.floor(high) + 1, 2):
        flops = 10.0**power
        ends = [flops / FLOPS_PER_PARAMETER / n for n in sizes]
        axes.plot(sizes, ends, color="0.6", linewidth=0.8, linestyle="--", zorder=1)
        n = flops / FLOPS_PER_PARAMETER / tokens[0] if ends[1] < tokens[0] else sizes[1]
        if n > 4 * sizes[0]:
            axes.text(
                *(n, max(ends[1], tokens[0]) * 1.15, f"1e{power} FLOPs "),
                ha="right",
                fontsize=7,
                color="0.35",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
            )


def _draw_optimum(
    axes: Axes,
    law: Law,
    demand: Demand,
    sizes: tuple[float, float],
    tokens: tuple[float, float],
    label: str,
    color: str,
) -> None:
    low, high = (FLOPS_PER_PARAMETER * n * d for n, d in zip(sizes, tokens, strict=True))
    start = max(low, 4 * demand.tokens * 1e6)
    found = [for_budget(law, flops, demand) for flops in _spaced(start, high)[:: _POINTS // 24]]
    axes.plot([f.parameters for f in found], [f.tokens for f in found], color=color, linewidth=2, label=label)


def _shades(count: int) -> list[str]:
    """From deep blue, for the least loss, to grey."""
    mixed = [i / (count - 1) for i in range(count)]
    return [f"#{int(170 * t):02x}{int(45 + 140 * t):02x}{int(140 + 60 * t):02x}" for t in mixed]


def _spaced(low: float, high: float) -> list[float]:
    return [low * (high / low) ** (i / (_POINTS - 1)) for i in range(_POINTS)]


def _formatter() -> Callable[[float, float], str]:
    return lambda value, _place: quantity_text(value)
