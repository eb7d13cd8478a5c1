"""Pareto fronts: what is beaten in nothing by anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def front(items: Iterable[T], cost: Callable[[T], float], gain: Callable[[T], float]) -> list[T]:
    """Those for which no other costs as little and gains as much, the cheapest first; of equals the first."""
    best, found = -float("inf"), []
    for item in sorted(items, key=lambda each: (cost(each), -gain(each))):
        if gain(item) > best:
            best = gain(item)
            found.append(item)
    return found
