"""Laws of routed models, where N parameters are not N multiplications."""

from __future__ import annotations

import math
from dataclasses import dataclass

from archc.analysis.laws.law import Count, Law, Range

EXPANSION = 64.0  # experts a token could choose for each that it takes, in all of Krajewski's runs
EXPANSIONS = Range(16, 256)  # four times around it: what archc is ready to apply the law to
GRANULARITIES = Range(1, 32)  # from an MLP's own width to the finest of Krajewski's tables


def saturated(experts: float, start: float, limit: float) -> float:
    """Clark's effective number of experts: `start` for 1 expert, and never more than `limit`."""
    return 1 / (1 / (experts - 1 + 1 / (1 / start - 1 / limit)) + 1 / limit)


@dataclass(frozen=True)
class Krajewski(Law):
    """c + (g / G^gamma + a) / N^alpha + b / D^beta, with experts of 1/G of the feed-forward width, G a token.

    granularity: G; 0 for the dense law of the same paper
    """

    granularity: float = 0.0
    a: float = 18.1
    alpha: float = 0.115
    b: float = 30.8
    beta: float = 0.147
    g: float = 2.1
    gamma: float = 0.58
    c: float = 0.47

    def loss(self, parameters: float, tokens: float) -> float:
        return self.c + self.size_term(parameters) + self.b / math.pow(tokens, self.beta)

    def size_term(self, parameters: float) -> float:
        """What N and G contribute to the loss, whatever the tokens."""
        fine = self.g / math.pow(self.granularity, self.gamma) if self.granularity else 0.0
        return (fine + self.a) / math.pow(parameters, self.alpha)


def replicated_size(dense: float, expansion: float = 64) -> float:
    """N where the feed-forward part, 8/12 of a block's parameters, is there `expansion` times.

    The paper's 64 x 7B has 43 times, not 64 times, 7B parameters.
    """
    return dense * (8 * expansion + 4) / 12


def krajewski(granularity: float) -> Krajewski:
    """The law with its published coefficients, for experts so many times finer than a dense layer's."""
    return Krajewski(
        "krajewski",
        "Krajewski et al. 2024, arXiv 2402.07871, table 1",
        Count.NON_EMBEDDING,
        Range(129e6, 3.7e9),
        Range(16e9, 130e9),
        "for 64 times the feed-forward parameters, all of them in N; rounded coefficients put it 0.8 % below "
        "the paper's own table",
        granularity=granularity,
    )


KRAJEWSKI_DENSE = Krajewski(
    "krajewski-dense",
    "Krajewski et al. 2024, arXiv 2402.07871, table 1",
    Count.NON_EMBEDDING,
    Range(129e6, 3.7e9),
    Range(16e9, 130e9),
    a=16.3,
    alpha=0.126,
    b=26.7,
    beta=0.127,
)


@dataclass(frozen=True)
class Clark(Law):
    """log L = a log N + b log E' + c log N log E' + d, in base 10; E' saturates with the experts."""

    experts: float = 1.0
    a: float = -0.082
    b: float = -0.108
    c: float = 0.009
    d: float = 1.104
    start: float = 1.847
    limit: float = 314.5

    def loss(self, parameters: float, tokens: float) -> float:  # noqa: ARG002 - D was the same in all runs
        size, experts = math.log10(parameters), math.log10(saturated(self.experts, self.start, self.limit))
        return math.pow(10, self.a * size + self.b * experts + self.c * size * experts + self.d)


def clark(experts: float) -> Clark:
    """The law with its published coefficients, for a number of experts in a layer."""
    return Clark(
        "clark",
        "Clark et al. 2022, arXiv 2202.01169, S-BASE routing",
        Count.DENSE,
        Range(15e6, 1.3e9),
        None,
        "every run had 130B tokens: D does not enter",
        experts=experts,
    )


@dataclass(frozen=True)
class Ludziejewski(Law):
    """a / (E'^delta N^(alpha + gamma ln E')) + b / (E'^omega D^(beta + zeta ln E')) + c."""

    experts: float = 1.0
    a: float = 35.91
    delta: float = 0.2285
    alpha: float = 0.1889
    gamma: float = -0.0098
    b: float = 35.98
    omega: float = -0.5529
    beta: float = 0.1775
    zeta: float = 0.0259
    c: float = 1.3637
    start: float = 2.07
    limit: float = 290.45

    def loss(self, parameters: float, tokens: float) -> float:
        experts = saturated(self.experts, self.start, self.limit)
        log = math.log(experts)
        size = self.a / math.pow(experts, self.delta) / math.pow(parameters, self.alpha + self.gamma * log)
        data = self.b / math.pow(experts, self.omega) / math.pow(tokens, self.beta + self.zeta * log)
        return size + data + self.c


def ludziejewski(experts: float) -> Ludziejewski:
    """The law with its quoted coefficients, for a number of experts in a layer."""
    return Ludziejewski(
        "ludziejewski",
        "Ludziejewski et al. 2025, arXiv 2502.05172, as secondary sources quote it",
        Count.ACTIVE,
        Range(1e7, 2.7e9),
        None,
        "experimental: the sources lost the fraction bars; the powers of E' are read as divisors, since only "
        "then do more experts help, as the paper says",
        experts=experts,
    )
