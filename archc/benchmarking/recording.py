"""The calls that a model makes of its kernels: the same tensors, shapes and strides are then timed again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

Arguments = tuple[Any, ...]
_MOST = 64  # calls of a function that are kept


@dataclass
class Calls:
    """The arguments of each call of some functions, by name.

    enough: bytes; further calls of a function are not kept
    """

    enough: int
    kept: dict[str, list[Arguments]] = field(default_factory=dict)

    def add(self, name: str, arguments: Arguments) -> None:
        """Keep a call: those with all operands rather than those with some left out."""
        kept = self.kept.setdefault(name, [])
        if kept and missing(kept[0]) > missing(arguments):
            kept.clear()
        full = len(kept) >= _MOST or sum(map(tensor_bytes, kept)) >= self.enough
        if not kept or (missing(kept[0]) == missing(arguments) and not full):
            kept.append(arguments)


def missing(arguments: Arguments) -> int:
    """How many arguments are None."""
    return sum(argument is None for argument in arguments)


def tensor_bytes(arguments: Arguments) -> int:
    """The bytes of the tensors among the arguments of a call."""
    return sum(a.numel() * a.element_size() for a in arguments if isinstance(a, Tensor))


@contextmanager
def recorded(module: Any, names: Iterable[str], calls: Calls) -> Iterator[None]:
    """Keep the calls of a module's functions that are made by their names in it."""
    originals = {name: vars(module)[name] for name in names if name in vars(module)}
    for name, function in originals.items():
        setattr(module, name, partial(_call, calls, name, function))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(module, name, function)


def _call(calls: Calls, name: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    if named:
        arguments = inspect.signature(function).bind(*arguments, **named).args
    calls.add(name, arguments)
    return function(*arguments)
