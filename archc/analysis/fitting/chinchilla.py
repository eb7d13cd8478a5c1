"""Chinchilla's law fitted to runs, as Hoffmann et al. 2022 and Besiroglu et al. 2024 do it.

The Huber loss of the errors of ln L is minimised by L-BFGS from a grid of starts.  The terms are written
about the runs' middle, which changes nothing but how well L-BFGS does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from archc.analysis.fitting.bootstrap import Interval, Vector, interval, resamples
from archc.analysis.fitting.identification import spread_problems, undetermined
from archc.analysis.fitting.ranks import spearman
from archc.analysis.fitting.runs import Runs
from archc.analysis.fitting.threads import single_threaded
from archc.analysis.laws.chinchilla import Chinchilla
from archc.analysis.laws.law import Count, Range
from archc.errors import ArchcError

COLUMNS = ("parameters", "tokens", "loss")
COEFFICIENTS = ("E", "A", "B", "alpha", "beta")
HUBER = 1e-3  # of ln L, as in both papers
HELD_OUT = 0.2  # of the runs, those of the most compute

# The paper's grid, in ln E, ln A, ln B, alpha, beta; the best of its 4500 points are followed.
_STARTS = np.array(
    list(
        product(
            np.arange(-1, 1.1, 0.5),
            np.arange(0, 26, 5.0),
            np.arange(0, 26, 5.0),
            *([np.arange(0, 2.1, 0.5)] * 2),
        )
    )
)
_FOLLOWED = 24
_BOUNDS = [(None, None)] * 3 + [(0.0, 3.0)] * 2  # a larger exponent is a law of something else
_LIMIT = 400.0  # of the condition of the Jacobian; designs that work have less than 100


@dataclass(frozen=True)
class ChinchillaFit:
    """A fit with what can be said of it.

    law:       the fit; its covariance is that of the bootstrap
    intervals: of each coefficient
    samples:   [bootstrap fits, (E, ln A, ln B, alpha, beta)]
    rank:      Spearman's correlation of predicted and measured loss on held-out runs of more compute, fitted
               without them; None where too few are left
    problems:  why the coefficients cannot be told, if so
    """

    law: Chinchilla
    intervals: dict[str, Interval]
    samples: Vector
    rank: float | None
    problems: tuple[str, ...]

    def predicted(self, parameters: float, tokens: float, level: float) -> Interval:
        """The interval of a loss."""
        e, a, b, alpha, beta = self.samples.T
        sizes, data = np.exp(a - alpha * math.log(parameters)), np.exp(b - beta * math.log(tokens))
        return interval(e + sizes + data, level)


@single_threaded
def fit_chinchilla(runs: Runs, bootstrap: int, level: float = 0.9, seed: int = 0) -> ChinchillaFit:
    """Fit runs with columns parameters, tokens and loss; raises `ArchcError` for too few."""
    if len(runs) <= len(COEFFICIENTS):
        raise ArchcError(f"{runs.source}: {len(runs)} runs cannot determine 5 coefficients: 6 are the least")
    best = _fit_from_grid(runs)
    samples = resamples(runs, lambda drawn: _fit(drawn, best), bootstrap, seed)
    intervals = {name: interval(samples[:, i], level) for i, name in enumerate(COEFFICIENTS)}
    for name in ("A", "B"):
        intervals[name] = Interval(math.exp(intervals[name].low), math.exp(intervals[name].high))
    covariance = tuple(tuple(float(v) for v in row) for row in np.cov(samples.T))
    return ChinchillaFit(
        _law(runs, best, covariance), intervals, samples, _held_out_rank(runs), tuple(_problems(runs, best))
    )


def _law(runs: Runs, point: Vector, covariance: tuple[tuple[float, ...], ...] | None = None) -> Chinchilla:
    e, a, b, alpha, beta = (float(value) for value in point)
    sizes, tokens = runs["parameters"], runs["tokens"]
    return Chinchilla(
        "fitted",
        f"fitted to {len(runs)} runs of {runs.source}",
        Count.TOTAL,
        Range(float(sizes.min()), float(sizes.max())),
        Range(float(tokens.min()), float(tokens.max())),
        "N is what the column of parameters counts",
        E=e,
        A=math.exp(a),
        B=math.exp(b),
        alpha=alpha,
        beta=beta,
        covariance=covariance,
    )


def _fit_from_grid(runs: Runs) -> Vector:
    """The best point, as (E, ln A, ln B, alpha, beta)."""
    objective, centred = _objective(runs), _centres(runs)
    starts = _to_centred(_STARTS.T, centred)
    losses = [_losses(runs, some) for some in np.array_split(starts, 50, axis=1)]
    likeliest = np.argsort(np.concatenate(losses))[:_FOLLOWED]
    ends = [_minimise(objective, starts[:, i], 100) for i in likeliest]
    best = min(ends, key=lambda end: objective(end)[0])
    return _from_centred(_minimise(objective, best), centred)


def _fit(runs: Runs, start: Vector) -> Vector:
    """The best point near a start, both as (E, ln A, ln B, alpha, beta)."""
    centred = _centres(runs)
    at = np.array([math.log(max(start[0], 1e-6)), *start[1:]])
    return _from_centred(_minimise(_objective(runs), _to_centred(at, centred)), centred)


def _minimise(
    objective: Callable[[Vector], tuple[float, Vector]], start: Vector, steps: int = 1000
) -> Vector:
    from scipy.optimize import minimize

    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": 1e-12, "gtol": 1e-8}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=_BOUNDS, options=options)
    end: Vector = found.x
    return end


def _objective(runs: Runs) -> Callable[[Vector], tuple[float, Vector]]:
    """Huber loss over its width, and its gradient, of a point about the runs' middle."""
    terms, measured = _terms(runs), np.log(runs["loss"])
    columns = terms.reshape(-1, len(COEFFICIENTS))

    def value(point: Vector) -> tuple[float, Vector]:
        predicted, shares = _predicted(terms @ point)
        losses, slopes = _huber(predicted - measured)
        return float(losses.sum()), (shares * slopes).reshape(-1) @ columns

    return value


def _losses(runs: Runs, points: Vector) -> Vector:
    """The objective's value at each of many points: [5, points]."""
    predicted, _ = _predicted(_terms(runs) @ points)
    losses: Vector = _huber(predicted - np.log(runs["loss"])[:, None])[0].sum(0)
    return losses


def _huber(error: Vector) -> tuple[Vector, Vector]:
    """The loss of each error, over its width, and its slope."""
    slope = np.minimum(np.maximum(error / HUBER, -1), 1)
    return slope * (error - slope * (HUBER / 2)), slope


def _terms(runs: Runs) -> Vector:
    """The logarithms of the law's terms about the runs' middle, as maps of a point: [3, runs, 5]."""
    sizes, data = (np.log(runs[name]) - centre for name, centre in zip(COLUMNS, _centres(runs), strict=False))
    terms = np.zeros((3, len(runs), len(COEFFICIENTS)))
    terms[[0, 1, 2], :, [0, 1, 2]] = 1
    terms[1, :, 3], terms[2, :, 4] = -sizes, -data
    return terms


def _predicted(terms: Vector) -> tuple[Vector, Vector]:
    """ln L of each run, and the share of each term in L, of the terms' logarithms: [3, runs, ...]."""
    largest = terms.max(0)
    powers = np.exp(terms - largest)
    total = powers.sum(0)
    return largest + np.log(total), powers / total


def _centres(runs: Runs) -> tuple[float, float]:
    return float(np.log(runs["parameters"]).mean()), float(np.log(runs["tokens"]).mean())


def _to_centred(point: Vector, centres: tuple[float, float]) -> Vector:
    """From (ln E, ln A, ln B, alpha, beta) to the same about the runs' middle."""
    e, a, b, alpha, beta = point
    return np.array([e, a - alpha * centres[0], b - beta * centres[1], alpha, beta])


def _from_centred(point: Vector, centres: tuple[float, float]) -> Vector:
    """To (E, ln A, ln B, alpha, beta)."""
    e, a, b, alpha, beta = point
    return np.array([math.exp(e), a + alpha * centres[0], b + beta * centres[1], alpha, beta])


def _held_out_rank(runs: Runs) -> float | None:
    compute = runs["parameters"] * runs["tokens"]
    held = compute >= np.quantile(compute, 1 - HELD_OUT)
    if held.sum() < 4 or (~held).sum() <= len(COEFFICIENTS):
        return None
    law = _law(runs, _fit_from_grid(runs.where(~held)))
    test = runs.where(held)
    pairs = zip(test["parameters"], test["tokens"], strict=True)
    return spearman(np.array([law.loss(n, d) for n, d in pairs]), test["loss"])


def _problems(runs: Runs, point: Vector) -> list[str]:
    found = list(spread_problems({"parameters": runs["parameters"], "tokens": runs["tokens"]}, least=3))
    at = _to_centred(np.array([math.log(max(point[0], 1e-6)), *point[1:]]), _centres(runs))
    terms = _terms(runs)
    _, shares = _predicted(terms @ at)
    jacobian = (shares[..., None] * terms).sum(0)
    if names := undetermined(jacobian, COEFFICIENTS, _LIMIT):
        found.append(f"the runs do not determine {', '.join(names)}: other values fit as well")
    return found
