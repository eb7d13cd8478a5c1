"""The memory of weights, and of what training keeps beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from archc.analysis.activations import Activations

# Bytes of an element; those of fewer than 8 bits without the scales that go with them.
ELEMENT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "float8": 1.0, "int4": 0.5}


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that training holds, with Adam.

    weights:     in the dtype that the model runs in
    gradients:   in the same
    optimizer:   Adam's two moments in float32, and a float32 copy of weights that run in less
    activations: what the forward pass of the batch leaves for the backward pass
    recomputed:  the same where each layer is computed again in the backward pass
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    recomputed: int

    @property
    def total(self) -> int:
        """With all activations kept."""
        return self.weights + self.gradients + self.optimizer + self.activations

    @property
    def least(self) -> int:
        """With activations computed again."""
        return self.total - self.activations + self.recomputed


def weight_bytes(parameters: int) -> Mapping[str, int]:
    """The bytes of weights by dtype."""
    return {dtype: int(parameters * size) for dtype, size in ELEMENT_BYTES.items()}


def training_memory(parameters: int, dtype: str, kept: Activations) -> TrainingMemory:
    """What the parameters need in training.  (Rajbhandari et al. 2020: 16 bytes each in mixed precision)"""
    weights = int(parameters * ELEMENT_BYTES[dtype])
    copies = 2 if dtype == "float32" else 3
    return TrainingMemory(weights, weights, 4 * copies * parameters, kept.all, kept.recomputed)
