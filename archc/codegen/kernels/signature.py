"""What a kernel takes, and what a launch gives it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Signature:
    """A kernel's parameters, and what its launch gives for them."""

    parameters: tuple[str, ...]
    arguments: tuple[str, ...]

    @staticmethod
    def of(tensors: Mapping[str, str], numbers: Mapping[str, str]) -> Signature:
        """Of pointers to tensors, then numbers: each by its name, with what a launch gives for it."""
        return Signature(
            (*(f"{name}_ptr" for name in tensors), *numbers), (*tensors.values(), *numbers.values())
        )


def as_named(names: Iterable[str]) -> dict[str, str]:
    """Tensors that a launch gives as they are."""
    return {name: name for name in names}


def contiguous(names: Iterable[str]) -> dict[str, str]:
    """Tensors that are read row by row."""
    return {name: f"{name}.contiguous()" for name in names}


def in_rows(names: Iterable[str]) -> dict[str, str]:
    """Tensors of rows that lie apart."""
    return {name: f"{name}_rows" for name in names}


def row_strides(names: Iterable[str]) -> dict[str, str]:
    """How far the rows of these lie apart."""
    return {f"{name}_stride": f"{name}_rows.stride(0)" for name in names}
