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


def deepseek(flops: float) -> Hyperparameters:
    """DeepSeek LLM 2024, arXiv 2401.02954; flops = M D with M of `deepseek_size`."""
    return Hyperparameters(0.3118 * flops**-0.1250, 0.2920 * flops**0.3271)


def deepseek_size(layers: int, width: int, context: int) -> float:
    """M: training FLOPs a token without the vocabulary's, with attention over the context."""
    return 72.0 * layers * width**2 + 12.0 * layers * width * context


def deepseek_optimum(flops: float) -> tuple[float, float]:
    """DeepSeek LLM: M in FLOPs a token, and D in tokens, that are best for a compute budget."""
    return 0.1715 * flops**0.5243, 5.8316 * flops**0.4757
