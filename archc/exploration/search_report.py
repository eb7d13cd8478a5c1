"""What `archc search` tells: a table, a CSV file, a picture, and specs of the front."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from archc.analysis.laws.conditional import Conditional, warnings
from archc.analysis.serving import Workload
from archc.console import output
from archc.errors import ArchcError
from archc.exploration.front_table import front_table
from archc.exploration.search_space import VARIED, Base, Shape
from archc.exploration.searcher import Point, Search
from archc.exploration.variants import Variant
from archc.plotting import picture
from archc.quantities import quantity_text
from archc.tables import read_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RATE = "tokens_per_second"
_LABELS = 6  # points of a front that a picture names


def print_search(found: Search, base: Base, law: Conditional, load: Workload, measured: bool) -> None:
    """The front as a table, below the model that the search started from."""
    console = output()
    source = "measured" if measured else f"by the roofline of one {load.device.name}"
    console.print(
        f"{base.program.name} in {found.considered:,} shapes: batch {load.batch}, {load.prompt:,} tokens of "
        f"prompt, {load.answer:,} of answer, {source}",
        style="bold",
    )
    columns = ("d", "d_ff", "heads", "x", "r", "loss", "tokens/s")
    rows = [[*_row(point, found.base)] for point in found.front]
    console.print(front_table(columns, base.program.name, _row(found.base, found.base), rows))
    x, r = law.optimum
    console.print(f"loss: above that of the best shape, x = {x:.4f} and r = {r:.3f}, by the conditional law")
    console.print(law.source)
    console.print("the law does not see how many query heads share a key and value head")
    for warning in warnings(found.base.candidate.parameters, None):
        console.print(f"warning: {warning}", style="yellow")


def _row(point: Point, base: Point) -> Iterator[str]:
    each = point.candidate
    yield from (str(each.shape.d), str(each.shape.d_ff), f"{each.shape.heads}/{each.shape.kv_heads}")
    yield f"{each.x:.4f}"
    yield f"{each.r:.2f}"
    yield f"+{point.multiplier - 1:.2%}" if math.isfinite(point.multiplier) else "unknown"
    yield f"{point.rate:,.0f}"
    yield f"{point.rate / base.rate:.2f}x"


def as_csv(found: Search) -> str:
    """All points that were rated, those of the front marked; `--rates` reads the same columns."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*VARIED, "parameters", "x", "r", "loss_multiplier", RATE, "front"])
    for point in sorted(found.points, key=lambda each: each.multiplier):
        each = point.candidate
        writer.writerow(
            [
                *each.shape.settings().values(),
                round(each.parameters),
                f"{each.x:.6f}",
                f"{each.r:.6f}",
                f"{point.multiplier:.6f}",
                f"{point.rate:.1f}",
                int(point in found.front),
            ]
        )
    return file.getvalue()


def read_rates(path: Path) -> list[tuple[Shape, float]]:
    """Measured shapes with their rates; raises `ArchcError`."""
    header, rows = read_table(path)
    for name in (*VARIED, RATE):
        if name not in header:
            raise ArchcError(f"{path} has no column `{name}`; it needs {', '.join((*VARIED, RATE))}")
    if not rows:
        raise ArchcError(f"{path} has no measurements")
    found = []
    for number, row in enumerate(rows, 2):
        cells = dict(zip(header, row, strict=True))
        try:
            sizes, rate = [int(cells[name]) for name in VARIED], float(cells[RATE])
        except ValueError:
            raise ArchcError(f"{path}: row {number}: sizes are whole numbers, and {RATE} a number") from None
        if min(sizes) < 1 or not 0 < rate < math.inf:
            raise ArchcError(f"{path}: row {number}: sizes and {RATE} must be positive")
        found.append((Shape(*sizes), rate))
    return found


def variants(found: Search, base: Base) -> Sequence[Variant]:
    """The front as models to write."""
    return [
        Variant(
            f"{base.program.name}_{number}",
            f"+{point.multiplier - 1:.2%} loss over the best shape; {point.rate:,.0f} tokens/s, "
            f"{point.rate / found.base.rate:.2f} times {base.program.name}; x = {point.candidate.x:.4f}, "
            f"r = {point.candidate.r:.2f}",
            point.candidate.shape.settings(),
        )
        for number, point in enumerate(found.front, 1)
    ]


def draw_search(found: Search, base: Base, load: Workload, measured: bool, path: Path) -> None:
    """Write the picture; raises `ArchcError`."""
    start = found.base
    others = [point for point in found.points if point not in found.front]
    source = "measured" if measured else f"roofline of one {load.device.name}, {load.dtype}"
    with picture(path) as axes:
        axes.scatter(*_places(others), s=12, color="0.7", label="other shapes")
        axes.plot(*_places(found.front), "o-", color="C0", ms=4, drawstyle="steps-post", label="Pareto front")
        if math.isfinite(start.multiplier):
            axes.plot(*_places([start]), "k*", markersize=12, label=base.program.name)
        for point in _labelled(found.front):
            _annotate(axes, point, found.front[-1] is point)
        axes.set_xlabel("loss above that of the best shape, by the conditional law (%)")
        axes.set_ylabel("tokens of answers per second")
        size = quantity_text(start.candidate.parameters)
        axes.set_title(
            f"Shapes of {base.program.name} with {size} parameters outside of tables\n"
            f"batch {load.batch}, prompts of {load.prompt:,} tokens, answers of {load.answer:,}\n{source}",
            loc="left",
            fontsize=9,
        )
        axes.legend(loc="lower right", fontsize=8)


def _annotate(axes: Axes, point: Point, left: bool) -> None:
    shape = point.candidate.shape
    axes.annotate(
        f"d {shape.d}, d_ff {shape.d_ff}, {shape.heads}/{shape.kv_heads} heads",
        (100 * (point.multiplier - 1), point.rate),
        xytext=(-6, -3) if left else (6, -9),
        textcoords="offset points",
        ha="right" if left else "left",
        fontsize=7,
    )


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [100 * (point.multiplier - 1) for point in points], [point.rate for point in points]


def _labelled(front: Sequence[Point]) -> list[Point]:
    """A few points, spread over the front."""
    if len(front) <= _LABELS:
        return list(front)
    return [front[round(i * (len(front) - 1) / (_LABELS - 1))] for i in range(_LABELS)]
