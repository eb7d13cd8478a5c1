"""Loop variables: their names, and what they stand for in an iteration."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from archc.frontend.values import LoopValue


def fresh_variable(name: str, taken: Container[str]) -> str:
    """A name for a loop variable that no loop around it has."""
    while name in taken:
        name += "_"
    return name


def loop_value(variable: str, items: Sequence[Any], step: int) -> LoopValue:
    """What a variable stands for in an iteration: a number of a range, or the item at a place of a list."""
    if isinstance(items, range):
        return LoopValue(step, lambda indices: indices[variable], frozenset({variable}))
    return LoopValue(items[step], lambda indices: items[indices[variable]], frozenset({variable}))
