"""Which tensors the checkpoint beside a config holds, by the headers of its files alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAX_HEADER = 1 << 27
_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"
_FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Tensors:
    """The tensors of a checkpoint: the file of each by its name."""

    files: Mapping[str, Path]

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A tensor's shape; None where its file is not there, or cannot be read."""
        try:
            return tuple(_header(self.files[name])[name]["shape"])
        except _FAULTS:
            return None


def tensors_in(folder: Path) -> Tensors | None:
    """The tensors of a checkpoint; None where there is no checkpoint, or none that can be read."""
    try:
        if (folder / _INDEX).is_file():
            listed = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
            return Tensors({name: folder / file for name, file in listed.items()})
        if (folder / _WHOLE).is_file():
            return Tensors(dict.fromkeys(_header(folder / _WHOLE).keys() - {"__metadata__"}, folder / _WHOLE))
    except _FAULTS:
        pass  # loading will say what is wrong with it
    return None


def _header(file: Path) -> dict[str, Any]:
    """What a safetensors file begins with: the length of its header, and the header in JSON."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _MAX_HEADER:
            raise ValueError("this is no safetensors file")
        header = json.loads(opened.read(length))
    return header if isinstance(header, dict) else {}
