"""The text of an imported spec."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from archc.interop.family import Family, Value
from archc.ir.records import Record

_WIDTH = 110
_MAX_NAME = 60

# Words that open or join something in the language, or that a package cannot be called.
_TAKEN = frozenset(
    """and arch archc as block else expect false for forward fuse generated if ignore import in model none
    not or return torch triton true""".split()  # noqa: SIM905 - as in codegen/names.py
)


def spec_text(family: Family, name: str, arguments: Mapping[str, Value], origin: str, root: str = "") -> str:
    """A spec with one model; `origin` says in a comment where it comes from, `root` what follows `as`."""
    settings = [f"{parameter} = {value_text(value)}" for parameter, value in arguments.items()]
    return "\n".join(
        [
            f"# Imported from {_printable(origin)}, a Hugging Face model of type {family.model_type}.",
            "",
            f"import {family.spec}",
            "",
            *model_lines(f"model {name} = {family.arch}", settings, root),
            "",
        ]
    )


def root_text(root: str, replaced: str) -> str:
    """What follows `as`, or nothing, where tensors lie under a root, which may take a segment's place."""
    path = root if root.replace(".", "_").isidentifier() else f'"{root}"'
    return f"{replaced} -> {path}" if replaced else path if root else ""


def model_lines(head: str, settings: list[str], root: str) -> Iterator[str]:
    """A model's line, or lines as long as they may be, with `head` before its arguments."""
    tail = f") as {root}" if root else ")"
    whole = f"{head}({', '.join(settings)}{tail}"
    if len(whole) <= _WIDTH:
        yield whole
        return
    yield f"{head}("
    yield from _filled(", ".join(settings).split(", "))
    yield tail


def _filled(pieces: Iterable[str]) -> Iterator[str]:
    """Pieces, a comma after each, as many to an indented line as fit."""
    line = " "
    for piece in pieces:
        if len(line) + len(piece) + 2 > _WIDTH and line.strip():
            yield line
            line = " "
        line += f" {piece},"
    yield line


def value_text(value: Value) -> str:
    """A value as the language writes it."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case float():
            return _number_text(value)
        case tuple():
            return _list_text([value_text(item) for item in value])
        case Record():
            given = [field for field in fields(value) if getattr(value, field.name) != field.default]
            inner = [f"{field.name} = {value_text(getattr(value, field.name))}" for field in given]
            return f"{value.kind}({', '.join(inner)})"
        case _:
            return str(value)


def _number_text(value: float) -> str:
    """500000, 0.25, 1e-5."""
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    digits, power, exponent = repr(value).partition("e")
    return f"{digits}e{int(exponent)}" if power else digits


def _list_text(items: list[str]) -> str:
    """A list; one that repeats itself as its period, times how often."""
    for period in range(1, len(items)):
        if len(items) % period == 0 and items == items[:period] * (len(items) // period):
            return f"[{', '.join(items[:period])}] * {len(items) // period}"
    return f"[{', '.join(items)}]"


def model_name(path: Path, config_name: str, family: Family) -> str:
    """A name for the model: its directory's, else what the config calls it, else its type.

    path:        the config.json, with no `..` in it
    config_name: the config's `_name_or_path`
    """
    for candidate in (*_folder_names(path), config_name.replace("\\", "/").rstrip("/").rpartition("/")[2]):
        name = re.sub(r"[^a-z0-9]+", "_", candidate.lower())[:_MAX_NAME].strip("_")
        if name:
            return _safe(name)
    return family.model_type


def _folder_names(path: Path) -> Iterator[str]:
    """The directory's name; in huggingface_hub's cache, whose directories are hashes, the repository's."""
    folder = path.parent
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        yield folder.parent.parent.name.rpartition("--")[2]
    yield folder.name


def _safe(name: str) -> str:
    """A name that the language and Python both take."""
    if name[0].isdigit():
        return f"model_{name}"
    return f"{name}_model" if name in _TAKEN or keyword.iskeyword(name) else name


def _printable(text: str) -> str:
    """A text that cannot leave the comment it is put into."""
    return "".join(char if char.isprintable() else "?" for char in text)
