"""Kaplan et al. 2020, arXiv 2001.08361: the first laws of language models' loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

from archc.analysis.laws.law import Count, Law, Range


def loss_of_size(parameters: float) -> float:
    """L(N): as many tokens as help; N without the vocabulary's tables."""
    return math.pow(8.8e13 / parameters, 0.076)


def loss_of_data(tokens: float) -> float:
    """L(D): a large model that stops early."""
    return math.pow(5.4e13 / tokens, 0.095)


def loss_of_compute(petaflop_days: float) -> float:
    """L(C_min): compute spent as well as can be."""
    return math.pow(3.1e8 / petaflop_days, 0.050)


def critical_batch(loss: float) -> float:
    """Tokens in a batch beyond which a larger one saves few steps, at a loss."""
    return 2e8 / math.pow(loss, 1 / 0.21)


@dataclass(frozen=True)
class Kaplan(Law):
    """The joint fit: L = ((Nc / N)^(aN / aD) + Dc / D)^aD."""

    size_scale: float = 6.4e13
    data_scale: float = 1.8e13
    size_exponent: float = 0.076
    data_exponent: float = 0.103

    def loss(self, parameters: float, tokens: float) -> float:
        size = math.pow(self.size_scale / parameters, self.size_exponent / self.data_exponent)
        return math.pow(size + self.data_scale / tokens, self.data_exponent)


KAPLAN = Kaplan(
    "kaplan",
    "Kaplan et al. 2020, arXiv 2001.08361, the joint fit of N and D",
    Count.NON_EMBEDDING,
    Range(768, 1.5e9),
    Range(22e6, 23e9),
    "its learning rates were not matched to its run lengths, so it asks for larger models and fewer tokens "
    "than later laws",
)
