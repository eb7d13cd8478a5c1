"""The models that a search found, as a table, below the one that it started from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table


def front_table(
    columns: Sequence[str], name: str, base: Iterable[str], front: Iterable[Iterable[str]]
) -> Table:
    """A row for the model `name` that the search started from, and one for each point of the front."""
    table = Table(
        *("", *columns, ""), title="front, the least loss first", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_row(name, *base)
    table.add_section()
    for number, row in enumerate(front, 1):
        table.add_row(str(number), *row)
    return table
