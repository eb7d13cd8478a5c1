"""The values that an attribute may have, by the annotations in the declarations of ops and records."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from archc.ir.records import Record

MAX_SIZE = 1 << 40


class Width(int):
    """Annotation: a whole number of at least 1."""


@dataclass(frozen=True)
class Kind:
    """Accepts or refuses a compile-time value.

    `accept` returns the value to keep, and raises `ValueError` for one that is refused.
    """

    expected: str
    accept: Callable[[Any], Any]
    choices: tuple[str, ...] = ()


class NotWholeError(ValueError):
    """A fraction where a whole number is needed: a size that does not divide evenly."""


def kind_of(annotation: Any) -> Kind:
    """The kind that a Python annotation stands for."""
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        return _union([kind_of(part) for part in typing.get_args(annotation)])
    if origin is Literal:
        return _choice(typing.get_args(annotation))
    if origin is tuple:
        return _list(kind_of(typing.get_args(annotation)[0]))
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return _record(annotation)
    return _SIMPLE[annotation]


def _whole(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    if isinstance(value, float):
        if not value.is_integer():
            raise NotWholeError
        value = int(value)
    if abs(value) > MAX_SIZE:
        raise ValueError
    return value


def _positive(value: Any) -> Any:
    whole = _whole(value)
    if whole < 1:
        raise ValueError
    return whole


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    return value if isinstance(value, float) else float(value)


def _exactly(expected: type) -> Callable[[Any], Any]:
    def accept(value: Any) -> Any:
        if type(value) is not expected:
            raise ValueError
        return value

    return accept


_SIMPLE: dict[Any, Kind] = {
    int: Kind("a whole number", _whole),
    Width: Kind(f"a whole number from 1 to 2^{MAX_SIZE.bit_length() - 1}", _positive),
    float: Kind("a number", _number),
    bool: Kind("`true` or `false`", _exactly(bool)),
    str: Kind("a string", _exactly(str)),
    None: Kind("`none`", _exactly(type(None))),
    type(None): Kind("`none`", _exactly(type(None))),
}


def _choice(words: tuple[str, ...]) -> Kind:
    def accept(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError
        return str(value)

    return Kind(" or ".join(f"`{word}`" for word in words), accept, words)


def _record(base: type[Record]) -> Kind:
    def accept(value: Any) -> Record:
        if not isinstance(value, base):
            raise ValueError
        return value

    *others, last = (f"`{kind.kind}{'(...)' * bool(fields(kind))}`" for kind in _kinds(base))
    return Kind(f"{', '.join(others)} or {last}" if others else last, accept)


def _kinds(base: type[Record]) -> Iterator[type[Record]]:
    """The records of a kind that a spec can write, in the order of their declarations."""
    if "kind" in base.__dict__:
        yield base
    for kind in base.__subclasses__():
        yield from _kinds(kind)


def _list(item: Kind) -> Kind:
    def accept(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, tuple):
            raise ValueError
        return tuple(item.accept(part) for part in value)

    return Kind(f"a list, each {item.expected}", accept)


def _union(kinds: list[Kind]) -> Kind:
    def accept(value: Any) -> Any:
        fraction = False
        for kind in kinds:
            try:
                return kind.accept(value)
            except NotWholeError:
                fraction = True
            except ValueError:
                continue
        raise NotWholeError if fraction else ValueError

    words = tuple(word for kind in kinds for word in kind.choices)
    return Kind(" or ".join(kind.expected for kind in kinds), accept, words)
