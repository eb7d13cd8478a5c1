"""Which tensors the checkpoint beside a config holds, by the headers of its files alone."""

from __future__ import annotations

import json
from pathlib import Path

_MAX_HEADER = 1 << 27
_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"


def tensor_names(folder: Path) -> frozenset[str] | None:
    """The names of a checkpoint's tensors; None where there is no checkpoint, or none that can be read."""
    try:
        if (folder / _INDEX).is_file():
            return frozenset(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"])
        if (folder / _WHOLE).is_file():
            return _names_in(folder / _WHOLE)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # loading will say what is wrong with it
    return None


def _names_in(file: Path) -> frozenset[str] | None:
    """The names in a safetensors file, which begins with the length of its header, and the header in JSON."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _MAX_HEADER:
            return None
        return frozenset(json.loads(opened.read(length))) - {"__metadata__"}
