"""Where results are printed."""

from __future__ import annotations

import os

from rich.console import Console

_UNLIMITED = 1 << 14  # columns: files and other programs take lines as long as they are


def output() -> Console:
    """Standard output, as wide as the terminal or COLUMNS; where neither is there, lines stay whole."""
    console = Console(markup=False, highlight=False)  # a spec's names are printed as they are
    if not (console.is_terminal or "COLUMNS" in os.environ):
        console.width = _UNLIMITED
    return console
