"""Which tensors the checkpoint beside a config holds, by the headers of its files alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"
_FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError)


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
            with safe_open(self.files[name], framework="numpy") as opened:
                return tuple(opened.get_slice(name).get_shape())
        except _FAULTS:
            return None


def tensors_in(folder: Path) -> Tensors | None:
    """The tensors of a checkpoint; None where there is no checkpoint, or none that can be read."""
    try:
        if (folder / _INDEX).is_file():
            listed = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
            return Tensors({name: folder / file for name, file in listed.items()})
        if (folder / _WHOLE).is_file():
            with safe_open(folder / _WHOLE, framework="numpy") as opened:
                return Tensors(dict.fromkeys(opened.keys(), folder / _WHOLE))
    except _FAULTS:
        pass  # loading will say what is wrong with it
    return None
