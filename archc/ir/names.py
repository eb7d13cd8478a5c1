"""Unique names."""

from __future__ import annotations

from collections.abc import Iterable


def unique(name: str, taken: Iterable[str]) -> str:
    """`name`, or `name_2`, `name_3`... where it is taken."""
    used = set(taken)
    candidate, count = name, 2
    while candidate in used:
        candidate, count = f"{name}_{count}", count + 1
    return candidate
