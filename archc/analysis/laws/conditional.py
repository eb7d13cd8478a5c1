"""The conditional law: how loss depends on the shape of a model whose size and data are given.

Bian, Yu, Venkataraman, Park 2025, "Scaling Laws Meet Model Architecture", arXiv 2510.18245:

    L = (a0 + a1 ln x + a2 / x) (b0 + b1 ln r + b2 / r) L_opt(N, D)
    x = d_model / sqrt(N)    N without the vocabulary's tables
    r = MLP parameters / attention parameters

The group size of grouped-query attention has no smooth relation with loss: the law does not see it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from archc.analysis.laws.law import Range
from archc.errors import ArchcError, did_you_mean
from archc.quantities import quantity_text

RATIOS = Range(0.5, 5.0)  # of r; the paper fits no run outside
SIZES = Range(80e6, 3e9)  # of N
TOKENS_PER_PARAMETER = Range(33, 105)  # 100 up to 1B, and 100B tokens for 3B as well


@dataclass(frozen=True)
class Curve:
    """c0 + c1 ln z + c2 / z, least at z = c2 / c1."""

    c0: float
    c1: float
    c2: float

    def __call__(self, z: float) -> float:
        return self.c0 + self.c1 * math.log(z) + self.c2 / z

    @property
    def optimum(self) -> float:
        return self.c2 / self.c1

    def relative(self, z: float) -> float:
        """1 at the optimum, more elsewhere."""
        return self(z) / self(self.optimum)


@dataclass(frozen=True)
class Conditional:
    """A fit of the law.

    width:  the curve of x = d_model / sqrt(N)
    ratio:  the curve of r = MLP / attention parameters
    ratios: the r that it was fitted on
    """

    name: str
    source: str
    width: Curve
    ratio: Curve
    ratios: Range = RATIOS

    @property
    def optimum(self) -> tuple[float, float]:
        """x and r of the least loss."""
        return self.width.optimum, self.ratio.optimum

    @property
    def least(self) -> float:
        """The raw product at the optimum: near 1 but not 1, as nothing in the fit holds it there."""
        return self.width(self.width.optimum) * self.ratio(self.ratio.optimum)

    def multiplier(self, x: float, r: float) -> float:
        """Loss over that of the best shape of the same N and D, 1 at the optimum; raises `ArchcError`."""
        if r not in self.ratios:
            raise ArchcError(
                f"the conditional law was fitted for MLP / attention parameters of {self.ratios.low:.3g} to "
                f"{self.ratios.high:.3g}, and says nothing of {r:.3g}"
            )
        if not x > 0:
            raise ArchcError(f"the width over the square root of N must be positive, not {x:.3g}")
        return self.width.relative(x) * self.ratio.relative(r)


def warnings(parameters: float, tokens: float | None) -> Iterator[str]:
    """What makes the law's answer for N, and D if it is known, an extrapolation."""
    if parameters not in SIZES:
        yield (
            f"the conditional law was fitted on {quantity_text(SIZES.low)} to {quantity_text(SIZES.high)} "
            f"parameters without the vocabulary's tables, not {quantity_text(parameters)}: extrapolated"
        )
    if tokens is not None and tokens / parameters not in TOKENS_PER_PARAMETER:
        yield (
            f"the conditional law was fitted at {TOKENS_PER_PARAMETER.low} to {TOKENS_PER_PARAMETER.high} "
            f"tokens a parameter, not {tokens / parameters:.3g}: extrapolated"
        )


SMALL = Conditional(
    "bian-small",
    "arXiv 2510.18245, fitted on 80M, 145M and 297M; predicts 1B",
    Curve(2.697, 0.0974, 0.0078),
    Curve(0.3870, 0.0063, 0.0065),
)
ONE_B = Conditional(
    "bian-1b",
    "arXiv 2510.18245, fitted on 1B only; predicts 3B",
    Curve(2.319, 0.238, 0.0176),
    Curve(0.5104, 0.0051, 0.0062),
)
CONDITIONAL_FITS = {fit.name: fit for fit in (SMALL, ONE_B)}


def conditional_named(name: str) -> Conditional:
    """The fit of a name; raises `ArchcError` where there is none."""
    if name not in CONDITIONAL_FITS:
        hint = did_you_mean(name, CONDITIONAL_FITS) or f"there are {', '.join(CONDITIONAL_FITS)}"
        raise ArchcError(f"no fit `{name}` of the conditional law; {hint}")
    return CONDITIONAL_FITS[name]
