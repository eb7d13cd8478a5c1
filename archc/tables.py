"""CSV files, as people write them."""

from __future__ import annotations

import csv
from pathlib import Path

from archc.errors import ArchcError


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV file; raises `ArchcError`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, strict=True) if any(cell.strip() for cell in row)]
    except OSError as error:
        raise ArchcError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ArchcError(f"{path} is not a text file in UTF-8") from None
    except csv.Error as error:
        raise ArchcError(f"{path} is no CSV file: {error}") from None
    if not rows:
        raise ArchcError(f"{path} is empty: its first line must name its columns")
    header = [cell.strip() for cell in rows[0]]
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise ArchcError(f"{path} has two columns `{twice[0]}`")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise ArchcError(f"{path}: row {number} has {len(row)} cells where the header has {len(header)}")
    return header, rows[1:]
