"""Whether chips have the shared memory that tiles of a table need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from archc.errors import ArchcError
from archc.tuned import Entry, read_table
from archc.verification.chips import CHIPS


def notes_on(path: Path) -> Iterator[str]:
    """A note on each chip that a tile is too large for; raises `ArchcError` for one that fits nowhere."""
    entries = [entry for entry in read_table(path).entries if entry.is_chosen]
    most = max(chip.shared for chip in CHIPS.values())
    for entry in entries:
        if entry.shared > most:
            raise ArchcError(f"{path}: no chip has {_needs(entry)}")
    for chip in CHIPS.values():
        large = [entry for entry in entries if entry.shared > chip.shared]
        if large:
            more = f", and so for {len(large) - 1} more" if len(large) > 1 else ""
            yield f"{path}: {chip.name} does not have {_needs(large[0])}{more}: what is built is not for it"


def _needs(entry: Entry) -> str:
    return f"the {entry.shared:,} bytes of shared memory that {entry.problem} needs by tiles of {entry.tile}"
