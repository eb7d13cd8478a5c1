"""The conditional law fitted to runs, by Levenberg-Marquardt as Bian et al. 2025 do it.

Two things differ from the paper.  The loss of the best shape is fitted too, for each size and amount of data:
that of the best run is too low where there is noise.  And both curves are written about the runs' middle,
without the factor that could go from one to the other, so that each coefficient is determined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archc.analysis.fitting.bootstrap import Interval, Vector, interval, resamples
from archc.analysis.fitting.identification import spread_problems, undetermined
from archc.analysis.fitting.ranks import spearman
from archc.analysis.fitting.runs import Runs
from archc.analysis.fitting.threads import single_threaded
from archc.analysis.laws.conditional import RATIOS, Conditional, Curve
from archc.analysis.laws.law import Range
from archc.errors import ArchcError

COLUMNS = ("parameters", "tokens", "d_model", "ratio", "loss")
COEFFICIENTS = ("x optimum", "r optimum", "a1", "a2", "b1", "b2")
_SHAPE = 4  # a1, a2, b1, b2
_SAME = 1.1  # sizes, and amounts of data, that differ by less are taken as one
_LIMIT = 300.0  # of the condition of the Jacobian
_FOLDS = 5


@dataclass(frozen=True)
class ConditionalFit:
    """A fit with what can be said of it.

    law:       the fit, each curve 1 at its least
    intervals: of the optimum, and of the coefficients of both curves
    rank:      Spearman's correlation of predicted and measured loss on held-out runs: those of the largest
               size, or a fifth at a time where there is one size
    dropped:   runs whose r is outside of what the law is fitted on
    problems:  why the coefficients cannot be told, if so
    """

    law: Conditional
    intervals: dict[str, Interval]
    rank: float
    dropped: int
    problems: tuple[str, ...]


@single_threaded
def fit_conditional(runs: Runs, bootstrap: int, level: float = 0.9, seed: int = 0) -> ConditionalFit:
    """Fit runs with the columns of `COLUMNS`, parameters without tables; raises `ArchcError`."""
    kept = runs.where((runs["ratio"] >= RATIOS.low) & (runs["ratio"] <= RATIOS.high))
    groups = sizes_of(kept) if len(kept) else np.zeros(0, dtype=np.int64)
    needed = _SHAPE + len(np.unique(groups)) + 1
    if len(kept) < needed:
        raise ArchcError(
            f"{runs.source}: {len(kept)} runs with a ratio of {RATIOS.low} to {RATIOS.high} cannot determine "
            f"the law: {needed} are the least"
        )
    curves = _fit(kept, groups)
    problems = list(_problems(kept, curves))
    law = _law(kept, curves)
    samples = resamples(kept, lambda drawn: _summary(_law_or_none(drawn)), bootstrap, seed, groups)
    without = float(np.isnan(samples[:, 0]).mean())
    if without > (1 - level) / 2:
        problems.append(
            f"{without:.0%} of the fits to drawn runs have no least loss: the optimum is not determined"
        )
    intervals = {
        name: interval(column[~np.isnan(column)], level)
        for name, column in zip(COEFFICIENTS, samples.T, strict=True)
    }
    scaled = Conditional(law.name, law.source, _unit(law.width), _unit(law.ratio), law.ratios)
    return ConditionalFit(
        scaled,
        intervals,
        _held_out_rank(kept, groups),
        len(runs) - len(kept),
        tuple(problems),
    )


def sizes_of(runs: Runs) -> NDArray[np.int64]:
    """A number for each size and amount of data, which shapes of one size meet only about."""
    labels = [_clusters(runs[name]) for name in ("parameters", "tokens")]
    _, numbers = np.unique(np.stack(labels), axis=1, return_inverse=True)
    return np.asarray(numbers, dtype=np.int64).reshape(-1)


def _clusters(values: Vector) -> NDArray[np.int64]:
    order = np.argsort(values)
    steps = np.concatenate([[0], np.diff(np.log(values[order])) > np.log(_SAME)])
    labels = np.empty(len(values), dtype=np.int64)
    labels[order] = np.cumsum(steps)
    return labels


def _fit(runs: Runs, groups: NDArray[np.int64]) -> tuple[Curve, Curve]:
    """The two curves; the loss of each group's best shape is fitted with them."""
    from scipy.optimize import least_squares

    names, numbers = np.unique(groups, return_inverse=True)
    features, centres = _features(runs)
    start = np.concatenate(
        [[np.log(runs["loss"][numbers == i].mean()) for i in range(len(names))], np.zeros(_SHAPE)]
    )

    def errors(point: Vector) -> Vector:
        error: Vector = _predicted(point, features, numbers) - runs["loss"]
        return error

    end = least_squares(errors, start, method="lm", x_scale="jac").x
    a1, a2, b1, b2 = end[-_SHAPE:]
    width = Curve(float(1 - a1 * centres[0] - a2 * centres[1]), float(a1), float(a2))
    ratio = Curve(float(1 - b1 * centres[2] - b2 * centres[3]), float(b1), float(b2))
    return width, ratio


def _features(runs: Runs) -> tuple[Vector, Vector]:
    """ln x, 1 / x, ln r, 1 / r about their means, [4, runs]; and the means."""
    x, r = runs["d_model"] / np.sqrt(runs["parameters"]), runs["ratio"]
    raw = np.stack([np.log(x), 1 / x, np.log(r), 1 / r])
    means = raw.mean(1)
    return raw - means[:, None], means


def _predicted(point: Vector, features: Vector, numbers: NDArray[np.int64]) -> Vector:
    shape = point[-_SHAPE:]
    width, ratio = 1 + shape[:2] @ features[:2], 1 + shape[2:] @ features[2:]
    predicted: Vector = np.exp(point[numbers]) * width * ratio
    return predicted


def _law(runs: Runs, curves: tuple[Curve, Curve]) -> Conditional:
    """The law of two curves; raises `ArchcError` where one of them has no least value."""
    for name, curve in zip(("d_model / sqrt(N)", "ratio"), curves, strict=True):
        if not (curve.c1 > 0 and curve.c2 > 0 and curve(curve.optimum) > 0):
            raise ArchcError(
                f"{runs.source}: the loss of the runs has no least value in {name}, as the law does"
            )
    ratios = Range(float(runs["ratio"].min()), float(runs["ratio"].max()))
    return Conditional("fitted", f"fitted to {len(runs)} runs of {runs.source}", *curves, ratios)


def _law_or_none(runs: Runs) -> Conditional | None:
    try:
        return _law(runs, _fit(runs, sizes_of(runs)))
    except ArchcError:
        return None


def _summary(law: Conditional | None) -> Vector:
    """The coefficients' values, NaN where the curves have no least value."""
    if law is None:
        return np.full(len(COEFFICIENTS), np.nan)
    width, ratio = _unit(law.width), _unit(law.ratio)
    return np.array([width.optimum, ratio.optimum, width.c1, width.c2, ratio.c1, ratio.c2])


def _unit(curve: Curve) -> Curve:
    """The curve with a least value of 1."""
    least = curve(curve.optimum)
    return Curve(curve.c0 / least, curve.c1 / least, curve.c2 / least)


def values(law: Conditional) -> dict[str, float]:
    """The coefficients as they are reported."""
    return dict(zip(COEFFICIENTS, map(float, _summary(law)), strict=True))


def _held_out_rank(runs: Runs, groups: NDArray[np.int64]) -> float:
    if len(np.unique(groups)) > 1:
        held = groups == groups[int(np.argmax(runs["parameters"]))]
        if (~held).sum() > _SHAPE + len(np.unique(groups[~held])):
            return spearman(_shape_factor(runs, held, groups), runs["loss"][held])
    predicted = np.empty(len(runs))
    for fold in range(_FOLDS):
        held = np.arange(len(runs)) % _FOLDS == fold
        predicted[held] = _shape_factor(runs, held, groups)
    return float(
        np.mean([spearman(predicted[groups == g], runs["loss"][groups == g]) for g in np.unique(groups)])
    )


def _shape_factor(runs: Runs, held: NDArray[np.bool_], groups: NDArray[np.int64]) -> Vector:
    """What the law, fitted without some runs, says of their shapes: their losses, but for a factor."""
    width, ratio = _fit(runs.where(~held), groups[~held])
    test = runs.where(held)
    x = test["d_model"] / np.sqrt(test["parameters"])
    return np.array([width(a) * ratio(b) for a, b in zip(x, test["ratio"], strict=True)])


def _problems(runs: Runs, curves: tuple[Curve, Curve]) -> list[str]:
    x = runs["d_model"] / np.sqrt(runs["parameters"])
    found = list(spread_problems({"d_model / sqrt(N)": x, "ratio": runs["ratio"]}, least=1.5))
    for name, column in (("d_model / sqrt(N)", x), ("ratio", runs["ratio"])):
        if len(np.unique(np.round(np.log(column), 2))) < 3:
            found.append(f"{name} has fewer than 3 different values: a curve of them is not determined")
    features, _ = _features(runs)
    names = ("a1", "a2", "b1", "b2")
    if undetermined_names := undetermined(features.T, names, _LIMIT):
        found.append(f"the runs do not determine {', '.join(undetermined_names)}: other values fit as well")
    for name, column, curve in (("d_model / sqrt(N)", x, curves[0]), ("ratio", runs["ratio"], curves[1])):
        if curve.c1 > 0 and curve.c2 > 0 and not column.min() <= curve.optimum <= column.max():
            found.append(
                f"the optimum of {name}, {curve.optimum:.3g}, is outside of the runs' {column.min():.3g} to "
                f"{column.max():.3g}: extrapolated"
            )
    return found
