"""Reading a config.json key by key: what is read is accounted for, what is wrong is collected."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from archc.errors import ArchcError, did_you_mean
from archc.interop.tensors import Tensors

MAX_CONFIG_BYTES = 1 << 24
MAX_SIZE = 1 << 40


class Config:
    """The keys and values of a config.json, or of an object inside of it.

    Each reader below gives the value of a key.  A value it cannot take is noted in `problems`, and the
    default returned in its place, so that all problems of a file are found at once.  `tensors` are those in
    the checkpoint beside it, None where there is none.
    """

    def __init__(self, values: Mapping[str, Any], prefix: str = "", problems: list[str] | None = None):
        self.problems: list[str] = [] if problems is None else problems
        self.tensors: Tensors | None = None
        self._values = values
        self._prefix = prefix
        self._read: set[str] = set()
        self._meaningful: list[str] = []
        self._sections: dict[str, Config] = {}

    def get(self, key: str, missing: Any = None) -> Any:
        """The value as it stands, `missing` where there is none."""
        self._read.add(key)
        return self._values.get(key, missing)

    def has(self, key: str) -> bool:
        return key in self._values

    def lacks_tensor(self, name: str) -> bool:
        """Whether there is a checkpoint, without a tensor of a name."""
        return self.tensors is not None and name not in self.tensors

    def has_tensor(self, segments: str) -> bool:
        """Whether there is a checkpoint, with a tensor that has these segments in its name."""
        return self._first_tensor(segments) is not None

    def shape_of(self, segments: str) -> tuple[int, ...] | None:
        """The shape of a tensor that has these segments in its name; None where there is no such."""
        name = self._first_tensor(segments)
        return self.tensors.shape(name) if self.tensors and name else None

    def _first_tensor(self, segments: str) -> str | None:
        return next((name for name in self.tensors or () if f".{segments}." in f".{name}."), None)

    def without(self, *keys: str) -> dict[str, Any]:
        """All keys but some."""
        return {key: value for key, value in self._values.items() if key not in keys}

    def whole(
        self, key: str, missing: int, *, null: int | None = None, least: int = 1, most: int = MAX_SIZE
    ) -> int:
        """A whole number from `least` to `most`; `null` is what null stands for, None where it may not be."""
        value = self.get(key, missing)
        if value is None and null is not None:
            return null
        if type(value) is int and least <= value <= most:
            return value
        bounds = f"from {least}" if most == MAX_SIZE else f"from {least} to {most}"
        self.complain(key, f"must be a whole number {bounds}")
        return missing

    def number(self, key: str, missing: float | None = None, *, null: float | None = None) -> float:
        """A finite number above 0, which must be there where `missing` is None."""
        value = self.get(key, missing)
        if value is None and null is not None:
            return null
        if type(value) in (int, float) and 0 < value < math.inf:
            return float(value)
        self.complain(key, "must be a number above 0")
        return 1.0 if missing is None else missing

    def flag(self, key: str, missing: bool) -> bool:
        value = self.get(key, missing)
        if isinstance(value, bool):
            return value
        self.complain(key, "must be true or false")
        return missing

    def choice(self, key: str, missing: str, choices: Iterable[str]) -> str:
        """One of several strings."""
        value = self.get(key, missing)
        if isinstance(value, str) and value in choices:
            return value
        self.complain(key, f"supported are {', '.join(choices)}")
        return missing

    def items(
        self, key: str, count: int, accepts: Callable[[Any], bool], kind: str
    ) -> tuple[Any, ...] | None:
        """A list's first `count` items; None where there is no list."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, list) and len(value) >= count and all(map(accepts, value)):
            return tuple(value[:count])
        self.complain(key, f"must be a list with {kind} for each of the {count} layers")
        return None

    def section(self, key: str) -> Config:
        """The object that a key holds, to be read in its turn; an empty one where there is none."""
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            self.complain(key, "must be an object")
            value = None
        if key not in self._sections:
            self._sections[key] = Config(value or {}, f"{self._prefix}{key}.", self.problems)
        return self._sections[key]

    def complain(self, key: str, must: str) -> None:
        """Note that the value of a key cannot be taken."""
        value = shown(self._values[key]) if key in self._values else "missing"
        self.note(f'"{self._prefix}{key}" is {value}: {must}')

    def note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def end_of_meaning(self) -> None:
        """What is read from here on is known, and means nothing to the model."""
        self._meaningful = sorted(self._read)

    def read_all(self) -> None:
        """Let all keys count as read."""
        self._read.update(self._values)

    def check_all_read(self, owner: str) -> None:
        """Note every key that nobody has read: `owner` gives it no meaning."""
        for key, value in self._values.items():
            if key not in self._read:
                known = self._meaningful or sorted(self._read)
                hint = did_you_mean(key, known) or f"supported are {', '.join(known)}"
                self.note(f'"{self._prefix}{key}" is {shown(value)}: {owner} has no such key; {hint}')
        for section in self._sections.values():
            section.check_all_read(owner)


def shown(value: Any) -> str:
    """A value as JSON writes it, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def config_file(path: Path) -> Path:
    """The config.json of a model directory, or the file itself; raises `ArchcError` where there is none."""
    try:
        os.stat(path)
    except (FileNotFoundError, ValueError):
        raise ArchcError(f"no such file or directory: {path}") from None
    except OSError as error:
        raise ArchcError(f"cannot read {path}: {error.strerror}") from None
    if os.path.isdir(path):
        if not (path / "config.json").is_file():
            raise ArchcError(
                f"{path} has no config.json: give a Hugging Face model directory, or the file itself"
            )
        return path / "config.json"
    if not os.path.isfile(path):
        raise ArchcError(f"{path} is no file: give a Hugging Face model directory, or its config.json")
    return path


def read_config(path: Path) -> Config:
    """The config in a file; raises `ArchcError` where that is not an object in JSON."""
    return Config(read_values(path))


def read_values(path: Path) -> dict[str, Any]:
    """The keys and values of a config in a file; raises `ArchcError` where that is not an object in JSON."""
    values = _parsed(path, _text(path))
    if not isinstance(values, dict):
        raise ArchcError(f"{path} holds {shown(values)}, not an object: it is no model's config.json")
    return values


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ArchcError(f"{path} is too large for a config.json: more than {MAX_CONFIG_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ArchcError(
            f"{path} is not a text file in UTF-8: give a Hugging Face model directory, or its config.json"
        ) from None
    except OSError as error:
        raise ArchcError(f"cannot read {path}: {error.strerror}") from None


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text, object_hook=_special_number)
    except json.JSONDecodeError as error:
        raise ArchcError(f"{path}:{error.lineno}:{error.colno}: this is not JSON: {error.msg}") from None
    except (RecursionError, ValueError):
        raise ArchcError(
            f"{path} is not JSON that can be read: it nests too deeply or holds too long a number"
        ) from None


def _special_number(values: dict[str, Any]) -> Any:
    """transformers 5 writes what JSON has no number for as {"__float__": "Infinity"}."""
    text = values.get("__float__")
    if len(values) == 1 and text in ("Infinity", "-Infinity", "NaN"):
        return float(text)
    return values
