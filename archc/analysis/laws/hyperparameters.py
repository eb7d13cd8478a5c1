"""Learning rate and batch size that were best at a scale."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hyperparameters:
    """learning_rate: peak, for AdamW; batch_tokens: tokens in a batch"""

    learning_rate: float
    batch_tokens: float


def step_law(parameters: float, tokens: float) -> Hyperparameters:
    """Li et al. 2025, arXiv 2503.04715 (Step Law); N without the vocabulary's tables."""
    return Hyperparameters(1.79 * parameters**-0.713 * tokens**0.307, 0.58 * tokens**0.571)
