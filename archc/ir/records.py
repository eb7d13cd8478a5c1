"""Structured compile-time values: masks, rope settings, initialisers.

A record class is a frozen dataclass; the language knows it by its name in lower case with underscores, as a
constant when it has no fields (`causal`) and as a function otherwise (`sliding(window = 4096)`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

RECORDS: dict[str, type[Record]] = {}

R = TypeVar("R", bound="Record")


@dataclass(frozen=True)
class Record:
    """A compile-time value with named fields.  `kind` is its name in the language."""

    kind: ClassVar[str]

    def __str__(self) -> str:
        inner = ", ".join(
            f"{field.name} = {attribute_text(getattr(self, field.name))}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        )
        return f"{self.kind}({inner})" if fields(self) else self.kind


def record(cls: type[R]) -> type[R]:
    """Declare a record: `cls` is a frozen dataclass whose base names what it may stand for."""
    cls.__str__ = Record.__str__  # type: ignore[method-assign]
    cls.kind = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
    RECORDS[cls.kind] = cls
    return cls


def readable(value: Record) -> list[str]:
    """What the language can read of a record: its fields, and what is computed from them."""
    computed = [name for name in dir(value) if isinstance(getattr(type(value), name, None), property)]
    return [*(field.name for field in fields(value)), *computed]


class Symbol(str):
    """A bare word that stands for one of an attribute's choices, such as `half`."""

    __slots__ = ()


def attribute_text(value: object) -> str:
    """A compile-time value as the language writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{float(value):g}" if float(f"{float(value):g}") == value else repr(float(value))
    if isinstance(value, tuple):
        return f"[{', '.join(attribute_text(item) for item in value)}]"
    return str(value)
