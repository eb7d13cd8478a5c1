"""How sure a fit is, by fits to runs that are drawn from the runs (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archc.analysis.fitting.runs import Runs

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Bounds, both inside."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def resamples(
    runs: Runs, fit: Callable[[Runs], Vector], count: int, seed: int, groups: NDArray[np.int64] | None = None
) -> Vector:
    """[count, coefficients]: the fits of runs drawn with replacement, within groups where there are some."""
    source = np.random.default_rng(seed)
    labels = np.zeros(len(runs), dtype=np.int64) if groups is None else groups
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    drawn = (np.concatenate([source.choice(own, len(own)) for own in members]) for _ in range(count))
    return np.array([fit(runs.where(numbers)) for numbers in drawn])


def interval(values: Vector, level: float) -> Interval:
    """The middle `level` of values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
