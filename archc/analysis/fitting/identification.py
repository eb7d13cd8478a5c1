"""Whether runs can tell a law's coefficients apart at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_NEGLIGIBLE = 0.3  # of a direction that is not determined: coefficients with less are not named
_COLLINEAR = 0.985  # correlation of logarithms


def spread_problems(columns: dict[str, NDArray[np.float64]], least: float) -> Iterator[str]:
    """Columns that vary by less than `least` times, or that vary together."""
    logs = {name: np.log(column) for name, column in columns.items()}
    for name, log in logs.items():
        times = float(np.exp(np.ptp(log)))
        if times < least:
            yield f"{name} varies by {times:.2g} times only: what it does to the loss cannot be told"
    names = [name for name, log in logs.items() if np.ptp(log) > 1e-9]
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            correlation = float(np.corrcoef(logs[one], logs[other])[0, 1])
            if abs(correlation) > _COLLINEAR:
                yield (
                    f"{one} and {other} vary together (correlation {correlation:.3f} of their logarithms): "
                    "what one does to the loss cannot be told from what the other does"
                )


def undetermined(jacobian: NDArray[np.float64], names: Sequence[str], limit: float) -> list[str]:
    """The coefficients of the direction that the runs say least of, where they say next to nothing.

    jacobian: [runs, coefficients], of the prediction
    limit:    of the ratio of the largest to the smallest singular value, columns scaled to length 1
    """
    lengths = np.linalg.norm(jacobian, axis=0)
    if np.any(lengths == 0):
        return [name for name, length in zip(names, lengths, strict=True) if length == 0]
    _, values, directions = np.linalg.svd(jacobian / lengths)
    if values[0] <= limit * values[-1]:
        return []
    return [name for name, part in zip(names, directions[-1], strict=True) if abs(part) > _NEGLIGIBLE]
