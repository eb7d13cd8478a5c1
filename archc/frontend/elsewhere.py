"""Names that a module does not know, but that a spec it could import defines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from archc.errors import ArchcError, Reporter
from archc.frontend.limits import MAX_IMPORTS
from archc.frontend.resolve import Loader, Module, display_name, read_spec, search_path


def import_hint(name: str, module: Module, kinds: tuple[str, ...] = ("block", "constant")) -> str:
    """Which spec to import for a name, or nothing where none that could be imported defines it."""
    for path in _importable(module):
        kind = _kind_in(path, name)
        if kind in kinds:
            return f"it is {_ARTICLES[kind]} of {display_name(path)}: write `import {path.stem}`"
    return ""


_ARTICLES = {"block": "a block", "constant": "a constant", "arch": "an arch"}


def _importable(module: Module) -> Iterator[Path]:
    """The specs that `import` would find, but for those that are imported already."""
    taken = {*module.imports, *([module.path.stem] if module.path else [])}
    for folder in search_path(module):
        for path in islice(sorted(folder.glob("*.arch")), MAX_IMPORTS):
            if path.stem.isidentifier() and path.stem not in taken and path.is_file():
                taken.add(path.stem)
                yield path


def _kind_in(path: Path, name: str) -> str | None:
    """What a spec defines under a name; one with mistakes of its own defines nothing."""
    try:
        source = read_spec(path)
    except ArchcError:
        return None
    if name not in source.text:
        return None
    found = Loader(Reporter()).load_text(source, path)
    if found is None:
        return None
    if name in found.archs:
        return "arch"
    return "block" if name in found.blocks else "constant" if name in found.defines else None
