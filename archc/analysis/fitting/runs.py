"""Runs: a CSV file with a line for each model that was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archc.errors import ArchcError, did_you_mean
from archc.quantities import parse_quantity
from archc.tables import read_table

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Runs:
    """Columns of positive numbers, all of one length."""

    source: str
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Runs:
        """Some of the runs, by a mask or by numbers, which may repeat."""
        return Runs(self.source, {name: column[chosen] for name, column in self.columns.items()})


def read_runs(path: Path, names: Sequence[str], renamed: Mapping[str, str]) -> Runs:
    """The columns that a fit needs; `renamed` maps its name of one to the file's.  Raises `ArchcError`."""
    header, rows = read_table(path)
    columns = {}
    for name in names:
        title = renamed.get(name, name)
        if title not in header:
            hint = did_you_mean(title, header) or f"it has {', '.join(header)}"
            raise ArchcError(f"{path} has no column `{title}`; {hint}; --column {name}=TITLE names another")
        place = header.index(title)
        columns[name] = np.array([_number(path, n, title, row[place]) for n, row in enumerate(rows, 2)])
    return Runs(str(path), columns)


def _number(path: Path, row: int, title: str, text: str) -> float:
    """A positive number, `2.35e9` or `8B`."""
    try:
        value = float(text)
    except ValueError:
        try:
            value = parse_quantity(text)
        except ArchcError:
            value = math.nan
    if not 0 < value < math.inf:
        raise ArchcError(f"{path}: row {row}: `{title}` must be a positive number, not `{text.strip()}`")
    return value
