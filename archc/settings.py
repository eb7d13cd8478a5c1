"""`--set name=value`, as several commands take it."""

from __future__ import annotations

from archc.errors import ArchcError


def parse_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """`("layers=2",)` -> {"layers": "2"}; raises `ArchcError`."""
    parsed: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip().isidentifier() or not value.strip():
            raise ArchcError(f"--set takes name=value, not `{setting}`")
        if not setting.isprintable():  # it becomes part of a generated file's first line
            raise ArchcError(f"--set takes name=value on one line, not {setting!r}")
        parsed[name.strip()] = value.strip()
    return parsed
