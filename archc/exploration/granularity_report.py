"""What `archc search` tells of a model with experts: a table, a CSV file, a picture, and specs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from archc.analysis.laws.routed import EXPANSION, krajewski
from archc.analysis.serving import Workload
from archc.console import output
from archc.exploration.front_table import front_table
from archc.exploration.granularity import GrainPoint, GranularitySearch, Mixture
from archc.exploration.search_report import RATE
from archc.exploration.variants import Variant
from archc.plotting import picture
from archc.quantities import quantity_text


def print_granularities(found: GranularitySearch, mixture: Mixture, load: Workload) -> None:
    """The front as a table, below the model that the search started from."""
    console = output()
    console.print(
        f"{mixture.program.name} in {len(found.points)} granularities: batch {load.batch}, {load.prompt:,} "
        f"tokens of prompt, {load.answer:,} of answer, by the roofline of one {load.device.name}",
        style="bold",
    )
    columns = ("G", "experts", "width", "router", "loss", "tokens/s")
    rows = [[*_row(point, found.base)] for point in found.front]
    console.print(front_table(columns, mixture.program.name, _row(found.base, found.base), rows))
    law = krajewski(found.base.grain.choices)
    console.print(
        f"loss: nats a token above {mixture.program.name}'s, the same for all amounts of training tokens, by "
        f"the law `{law.name}` at N = {quantity_text(found.base.parameters)}: {law.counts} and without "
        f"routers, of all experts"
    )
    console.print(law.source)
    console.print("G: experts that a token takes, each 1/G as wide as all of them together")
    for warning in _warnings(found, mixture, load):
        console.print(f"warning: {warning}", style="yellow")


def _row(point: GrainPoint, base: GrainPoint) -> Iterator[str]:
    grain = point.grain
    yield from (str(grain.choices), f"{grain.choices}/{grain.experts}", str(grain.width))
    yield quantity_text(point.router)
    yield f"{point.loss:+.4f}"
    yield f"{point.rate:,.0f}"
    yield f"{point.rate / base.rate:.3f}x"


def _warnings(found: GranularitySearch, mixture: Mixture, load: Workload) -> Iterator[str]:
    """What the law or the roofline was not made for."""
    if mixture.expansion != EXPANSION:
        yield (
            f"the law was fitted at {EXPANSION:g} experts for each that a token takes, not "
            f"{mixture.expansion:.3g}: extrapolated"
        )
    yield from krajewski(found.base.grain.choices).warnings(found.base.parameters, None)
    if found.dense:
        yield (
            f"{quantity_text(found.dense)} parameters of N are in MLPs that every token passes, which no "
            "model of the law's runs had"
        )
    narrow = [str(point.grain.width) for point in found.points if point.grain.width < load.device.tile]
    if narrow:
        yield (
            f"experts {', '.join(narrow)} wide do not fill a tile of {load.device.tile} columns, which the "
            "roofline does not see"
        )


def granularities_csv(found: GranularitySearch, mixture: Mixture) -> str:
    """All granularities, those of the front marked."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = list(mixture.settings_of(found.base.grain))
    writer.writerow([*names, "granularity", "parameters", "router", "loss_difference", RATE, "front"])
    for point in found.points:
        writer.writerow(
            [
                *mixture.settings_of(point.grain).values(),
                point.grain.choices,
                point.parameters,
                point.router,
                f"{point.loss:.6f}",
                f"{point.rate:.1f}",
                int(point in found.front),
            ]
        )
    return file.getvalue()


def granularity_variants(found: GranularitySearch, mixture: Mixture) -> Sequence[Variant]:
    """The front as models to write."""
    name = mixture.program.name
    return [
        Variant(
            f"{name}_g{point.grain.choices}",
            f"{point.loss:+.4f} nats against {name}; {point.rate:,.0f} tokens/s, "
            f"{point.rate / found.base.rate:.3f} times as many; granularity {point.grain.choices}",
            mixture.settings_of(point.grain),
        )
        for point in found.front
    ]


def draw_granularities(found: GranularitySearch, mixture: Mixture, load: Workload, path: Path) -> None:
    """Write the picture; raises `ArchcError`."""
    base, beaten = found.base, [point for point in found.points if point not in found.front]
    size = quantity_text(base.parameters)
    with picture(path) as axes:
        axes.plot(*_places(found.front), "o-", color="C0", ms=5, drawstyle="steps-post", label="Pareto front")
        if beaten:
            axes.plot(*_places(beaten), "o", color="0.7", ms=5, label="beaten")
        axes.plot(*_places([base]), "k*", markersize=12, label=mixture.program.name)
        for point in found.points:
            axes.annotate(
                f"G = {point.grain.choices}: {point.grain.experts} of {point.grain.width}",
                (point.loss, point.rate),
                xytext=(-6, 4) if point is found.points[0] else (6, -10),
                textcoords="offset points",
                ha="right" if point is found.points[0] else "left",
                fontsize=7,
            )
        axes.margins(x=0.15, y=0.1)
        axes.set_xlabel(f"loss above that of {mixture.program.name}, by Krajewski's law (nats a token)")
        axes.set_ylabel("tokens of answers per second")
        axes.set_title(
            f"Granularities of {mixture.program.name}: {size} parameters outside of tables and routers\n"
            f"batch {load.batch}, prompts of {load.prompt:,} tokens, answers of {load.answer:,}\n"
            f"roofline of one {load.device.name}, {load.dtype}",
            loc="left",
            fontsize=9,
        )
        axes.legend(loc="lower right", fontsize=8)


def _places(points: Sequence[GrainPoint]) -> tuple[list[float], list[float]]:
    return [point.loss for point in points], [point.rate for point in points]
