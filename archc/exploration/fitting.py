"""`archc fit`: a scaling law of one's own runs, and how far it can be trusted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from archc.analysis.laws.chinchilla import Chinchilla
from archc.analysis.laws.conditional import Conditional
from archc.console import output
from archc.errors import ArchcError
from archc.exploration.law_files import law_json
from archc.quantities import quantity_text

CHINCHILLA, CONDITIONAL = "chinchilla", "conditional"


@dataclass(frozen=True)
class Request:
    """What to fit, and what to tell of it.

    renamed:     titles of columns that the file has instead of the usual
    asked:       N and D of a loss to predict, by Chinchilla's law
    extrapolate: answer also outside of the runs
    """

    runs: Path
    law: str
    renamed: Mapping[str, str]
    bootstrap: int
    level: float
    seed: int
    asked: tuple[float, float] | None = None
    extrapolate: bool = False


@dataclass(frozen=True)
class Row:
    """A number that was fitted, with its interval."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Report:
    """What is told of a fit.  `rank` is None where too few runs are left to hold out."""

    law: Chinchilla | Conditional
    runs: int
    level: float
    rows: tuple[Row, ...]
    rank: float | None
    problems: tuple[str, ...]
    prediction: Row | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            **law_json(self.law),
            "runs": self.runs,
            "level": self.level,
            "intervals": {
                row.name: {"value": row.value, "low": row.low, "high": row.high} for row in self.rows
            },
            "held_out_rank_correlation": self.rank,
            "problems": list(self.problems),
            "prediction": self.prediction and vars(self.prediction),
        }


def fit(request: Request) -> Report:
    """Read the runs and fit them; raises `ArchcError`."""
    try:
        import scipy  # noqa: F401
        import threadpoolctl  # noqa: F401
    except ImportError:
        raise ArchcError("archc fit needs scipy: pip install 'archc-compiler[analysis]'") from None
    return _fit_chinchilla(request) if request.law == CHINCHILLA else _fit_conditional(request)


def _fit_chinchilla(request: Request) -> Report:
    from archc.analysis.fitting.chinchilla import COEFFICIENTS, COLUMNS, fit_chinchilla
    from archc.analysis.fitting.runs import read_runs

    runs = read_runs(request.runs, COLUMNS, request.renamed)
    found = fit_chinchilla(runs, request.bootstrap, request.level, request.seed)
    law, prediction = found.law, None
    if request.asked:
        outside = list(law.warnings(*request.asked))
        if outside and not request.extrapolate:
            raise ArchcError(
                "\n".join(
                    f"{each.removesuffix(': extrapolated')}; --extrapolate answers anyway" for each in outside
                )
            )
        interval = found.predicted(*request.asked, request.level)
        n, d = map(quantity_text, request.asked)
        title = f"loss of {n} after {d} tokens" + (", extrapolated" if outside else "")
        prediction = Row(title, law.loss(*request.asked), interval.low, interval.high)
    values = {name: float(getattr(law, name)) for name in COEFFICIENTS}
    rows = [Row(name, values[name], found.intervals[name].low, found.intervals[name].high) for name in values]
    return Report(law, len(runs), request.level, tuple(rows), found.rank, found.problems, prediction)


def _fit_conditional(request: Request) -> Report:
    from archc.analysis.fitting.conditional import COLUMNS, fit_conditional, values
    from archc.analysis.fitting.runs import read_runs

    runs = read_runs(request.runs, COLUMNS, request.renamed)
    found = fit_conditional(runs, request.bootstrap, request.level, request.seed)
    rows = [
        Row(name, value, found.intervals[name].low, found.intervals[name].high)
        for name, value in values(found.law).items()
    ]
    dropped = (f"{found.dropped} runs have a ratio outside of the law's 0.5 to 5 and were left out",)
    problems = (*(dropped if found.dropped else ()), *found.problems)
    return Report(found.law, len(runs), request.level, tuple(rows), found.rank, problems)


def parse_columns(texts: Iterable[str]) -> dict[str, str]:
    """`loss=val_loss` as a mapping; raises `ArchcError`."""
    pairs = [text.partition("=") for text in texts]
    if wrong := next(
        (text for text, (_, equals, title) in zip(texts, pairs, strict=True) if not (equals and title)), None
    ):
        raise ArchcError(f"--column takes name=TITLE, not `{wrong}`")
    return {name.strip(): title.strip() for name, _, title in pairs}


def print_report(report: Report) -> None:
    """Print what a fit found."""
    console = output()
    console.print(report.law.source, style="bold")
    table = Table(
        "", "value", f"{report.level:.0%} interval", title="bootstrap over runs", title_justify="left"
    )
    for row in (*report.rows, *([report.prediction] if report.prediction else [])):
        table.add_row(row.name, f"{row.value:.5g}", f"{row.low:.5g} to {row.high:.5g}")
    console.print(table)
    if report.rank is None:
        console.print("too few runs to hold some out")
    else:
        console.print(f"rank correlation on held-out runs (Spearman): {report.rank:.3f}")
    for problem in report.problems:
        console.print(f"warning: {problem}", style="yellow")


def to_json(report: Report) -> str:
    """The same as JSON."""
    return json.dumps(report.as_json(), indent=2) + "\n"
