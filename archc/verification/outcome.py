"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """One comparison: `error` is a distance relative to the truth, or 1 where something is not equal.

    `repeats` says that it is an earlier one's, of a graph that passes have left as it was.
    """

    subject: str
    check: str
    case: str
    error: float
    limit: float
    detail: str = ""
    repeats: bool = False

    @property
    def holds(self) -> bool:
        return self.error <= self.limit  # false for nan, too


def distance(value: Tensor, truth: Tensor) -> float:
    """|value - truth| / |truth|, in float64; shapes must agree."""
    if value.shape != truth.shape:
        return float("inf")
    truth = truth.double()
    norm = truth.norm()
    difference = (value.double() - truth).norm()
    return float(difference / norm if norm > 0 else difference)


def furthest(values: dict[str, Tensor], truths: dict[str, Tensor], keep: Tensor | None = None) -> float:
    """The largest distance among several outputs; `keep` [B, T] says which tokens count."""
    if values.keys() != truths.keys():
        return float("inf")
    worst = 0.0
    for name, truth in truths.items():
        value = values[name]
        if keep is not None and truth.shape[:2] == keep.shape:
            value, truth = value[keep], truth[keep]
        error = distance(value, truth)
        worst = error if error > worst or error != error else worst
    return worst


def unequal(left: Tensor, right: Tensor) -> float:
    """0 for equal tensors, else 1."""
    return 0.0 if torch.equal(left, right) else 1.0
