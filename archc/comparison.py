"""`archc diff`: two models side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from archc.analysis.analysis import Analysis
from archc.analysis.cache import CacheSize
from archc.analysis.dataflow import Difference, differences
from archc.analysis.laws.law import Count, Law
from archc.analysis.roofline import Phase
from archc.analyzer import Analysed
from archc.console import output
from archc.quantities import quantity_text, with_unit


@dataclass(frozen=True)
class Row:
    """A number of both models; None where a model has none.  `unit` is a SI unit, or empty for a count."""

    what: str
    unit: str
    a: float | None
    b: float | None

    @property
    def ratio(self) -> float | None:
        """How many times as much the second one has."""
        return self.b / self.a if self.a and self.b is not None else None


@dataclass(frozen=True)
class Comparison:
    """Two models' numbers, and where their dataflow differs."""

    a: str
    b: str
    rows: tuple[Row, ...]
    dataflow: tuple[Difference, ...]

    def as_json(self) -> dict[str, Any]:
        rows = [{**asdict(row), "ratio": row.ratio} for row in self.rows]
        return {"a": self.a, "b": self.b, "rows": rows, "dataflow": [asdict(each) for each in self.dataflow]}


def compare(a: Analysed, b: Analysed, law: Law, tokens: float) -> Comparison:
    """The comparison of two models, their losses after `tokens` training tokens by a law."""
    rows = (*_counts(a.analysis, b.analysis), _loss(a.analysis, b.analysis, law, tokens))
    changes = differences(a.reference, b.reference)
    return Comparison(
        a.analysis.model, b.analysis.model, (*rows, *_speeds(a.analysis, b.analysis)), tuple(changes)
    )


def _counts(a: Analysis, b: Analysis) -> Iterator[Row]:
    for what in ("total", "active", "non_embedding"):
        yield Row(f"parameters: {what.replace('_', '-')}", "", *(getattr(x.parameters, what) for x in (a, b)))
    for role in dict.fromkeys((*a.parameters.by_role, *b.parameters.by_role)):
        yield Row(f"parameters: {role}", "", *(x.parameters.by_role.get(role, 0) for x in (a, b)))
    yield from _caches(a.kv_cache, b.kv_cache)
    yield Row("FLOPs a token: weights", "FLOP", a.flops.weights, b.flops.weights)
    yield Row("FLOPs a token: attention", "FLOP", a.flops.attention, b.flops.attention)
    yield Row("FLOPs a token: training", "FLOP", a.flops.training_per_token, b.flops.training_per_token)
    yield Row("training: memory", "B", a.memory.training.total, b.memory.training.total)


def _caches(a: CacheSize, b: CacheSize) -> Iterator[Row]:
    """What a token adds to each, first and later, what is in it before any, and all of it."""
    yield Row("cache: a token", "B", a.bytes_per_token, b.bytes_per_token)
    if any(cache.lasting_bytes_per_token < cache.bytes_per_token for cache in (a, b)):
        lasting = (cache.lasting_bytes_per_token for cache in (a, b))
        yield Row("cache: a token once rings are full", "B", *lasting)
    if a.state_bytes or b.state_bytes:
        yield Row("cache: states of a sequence", "B", a.state_bytes, b.state_bytes)
    yield Row("cache: of the batch", "B", a.bytes, b.bytes)


def _loss(a: Analysis, b: Analysis, law: Law, tokens: float) -> Row:
    losses = (law.loss(_counted(each, law), tokens) for each in (a, b))
    return Row(f"loss after {quantity_text(tokens)} tokens, `{law.name}`", "nats", *losses)


def _counted(analysis: Analysis, law: Law) -> float:
    """The N that a law means; one of dense models takes what a token uses."""
    counts = analysis.parameters
    n = {Count.NON_EMBEDDING: counts.non_embedding, Count.ACTIVE: counts.active}
    return n.get(law.counts, counts.active)


def _speeds(a: Analysis, b: Analysis) -> Iterator[Row]:
    for what in ("prefill", "decode", "training_step"):
        phases: list[Phase | None] = [getattr(each.roofline, what) for each in (a, b)]
        speeds = (each.tokens_per_second if each is not None else None for each in phases)
        yield Row(f"{what.replace('_', ' ')}: tokens a second, at most", "", *speeds)


def print_comparison(comparison: Comparison, title: str) -> None:
    """Print both models' numbers and how their dataflow differs."""
    console = output()
    table = Table("", title=title, title_justify="left")
    for column in (comparison.a, comparison.b, "ratio"):
        table.add_column(column, justify="right")
    for row in comparison.rows:
        ratio = f"{row.ratio:.4g}" if row.ratio is not None else ""
        table.add_row(row.what, _text(row, row.a), _text(row, row.b), ratio)
    console.print(table)
    console.print("dataflow" if comparison.dataflow else "dataflow: the same, but for sizes", style="bold")
    part = ""
    for each in comparison.dataflow:
        if each.part != part:
            console.print(f"  {each.part}")
            part = each.part
        for line in each.removed:
            console.print(f"    - {line}", style="red")
        for line in each.added:
            console.print(f"    + {line}", style="green")


def _text(row: Row, value: float | None) -> str:
    if value is None:
        return "none"
    if row.unit == "nats":
        return f"{value:.3f}"
    return with_unit(value, row.unit) if row.unit else f"{value:,.0f}"
