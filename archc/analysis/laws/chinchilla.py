"""Chinchilla's law, L = E + A / N^alpha + B / D^beta, and where it is least for a compute budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from archc.analysis.laws.law import Count, Law, Range

FLOPS_PER_PARAMETER = 6  # of training, forward and backward, for each token

Covariance = tuple[tuple[float, ...], ...]

_STEP = 0.05  # of a standard error, for slopes


@dataclass(frozen=True)
class Chinchilla(Law):
    """E + A / N^alpha + B / D^beta.

    covariance: of (E, ln A, ln B, alpha, beta), where errors are known; ln, as A and B are positive and their
                errors are large
    """

    E: float = 0.0
    A: float = 0.0
    B: float = 0.0
    alpha: float = 0.0
    beta: float = 0.0
    covariance: Covariance | None = None

    def loss(self, parameters: float, tokens: float) -> float:
        return self.E + self.A / math.pow(parameters, self.alpha) + self.B / math.pow(tokens, self.beta)

    @property
    def size_exponent(self) -> float:
        """N grows as compute to this power."""
        return self.beta / (self.alpha + self.beta)

    def optimum(self, flops: float) -> tuple[float, float]:
        """N and D of the least loss where 6 N D = flops."""
        budget = flops / FLOPS_PER_PARAMETER
        balance = math.pow(self.alpha * self.A / (self.beta * self.B), 1 / (self.alpha + self.beta))
        size = balance * math.pow(budget, self.size_exponent)
        return size, budget / size

    def tokens_for(self, parameters: float) -> float:
        """The D for which N is the optimum of their compute: where the last of either helps as much."""
        ratio = self.beta * self.B / (self.alpha * self.A)
        return math.pow(ratio * math.pow(parameters, self.alpha), 1 / self.beta)

    def error_of(self, value: Callable[[Chinchilla], float]) -> float | None:
        """The standard error of what follows from the law, to first order in the coefficients' errors."""
        if self.covariance is None:
            return None
        deviations = [math.sqrt(row[i]) for i, row in enumerate(self.covariance)]
        slopes = [
            (value(self._moved(i, h)) - value(self._moved(i, -h))) / (2 * h) if h else 0.0
            for i, h in enumerate(_STEP * deviation for deviation in deviations)
        ]
        pairs = zip(slopes, self.covariance, strict=True)
        square = sum(g * h * v for g, row in pairs for h, v in zip(slopes, row, strict=True))
        return math.sqrt(max(0.0, square))

    def _moved(self, coefficient: int, step: float) -> Chinchilla:
        """The law with one of (E, ln A, ln B, alpha, beta) changed."""
        moves = [step if i == coefficient else 0.0 for i in range(5)]
        return replace(
            self,
            E=self.E + moves[0],
            A=self.A * math.exp(moves[1]),
            B=self.B * math.exp(moves[2]),
            alpha=self.alpha + moves[3],
            beta=self.beta + moves[4],
        )


def _independent(*errors: float) -> Covariance:
    return tuple(tuple(e * e if i == j else 0.0 for j in range(len(errors))) for i, e in enumerate(errors))


_HOFFMANN_SIZES, _HOFFMANN_TOKENS = Range(70e6, 16e9), Range(5e9, 500e9)

EPOCH = Chinchilla(
    "epoch",
    "Besiroglu, Erdil, Barnett, You 2024, arXiv 2404.10102: Hoffmann's approach 3 refitted to 240 runs read "
    "off its figure",
    Count.TOTAL,
    Range(57e6, 16.2e9),
    Range(0.8e9, 318e9),
    "errors: the paper's standard errors, taken as independent because it gives no covariance; A rises with "
    "alpha and B with beta, so the truth is narrower",
    E=1.8172,
    A=482.01,
    B=2085.43,
    alpha=0.3478,
    beta=0.3658,
    covariance=_independent(0.03, 124.58 / 482.01, 1293.23 / 2085.43, 0.02, 0.02),
)
HOFFMANN_TEX = Chinchilla(
    "hoffmann-tex",
    "Hoffmann et al. 2022, arXiv 2203.15556, approach 3, with the digits of the paper's TeX source as "
    "arXiv 2404.10102 quotes them",
    Count.TOTAL,
    _HOFFMANN_SIZES,
    _HOFFMANN_TOKENS,
    "disagrees with the paper's own approaches 1 and 2, and with the 20 tokens a parameter of Chinchilla",
    E=1.6934,
    A=406.4,
    B=410.7,
    alpha=0.3392,
    beta=0.2849,
)
HOFFMANN_ROUNDED = Chinchilla(
    "hoffmann-rounded",
    "Hoffmann et al. 2022, arXiv 2203.15556, approach 3 as printed",
    Count.TOTAL,
    _HOFFMANN_SIZES,
    _HOFFMANN_TOKENS,
    "two decimals of the exponents are too few: they alone move the optimum from 59 tokens a parameter to 93 "
    "at Chinchilla's compute",
    E=1.69,
    A=406.4,
    B=410.7,
    alpha=0.34,
    beta=0.28,
)
