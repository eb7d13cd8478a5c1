"""The calls that a model makes of its kernels: the same tensors, shapes and strides are then timed again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import Parameter

Arguments = tuple[Any, ...]
_MOST = 64  # calls of a function that are kept


@dataclass(frozen=True)
class Form:
    """What sets calls of one function apart: what a token has in its first operands, and its keywords."""

    name: str
    widths: tuple[tuple[int, ...], ...]
    keywords: tuple[tuple[str, Any], ...]


def form_of(name: str, arguments: Arguments, keywords: Mapping[str, Any]) -> Form:
    """The form of a call on tensors [B, T, ...]: by the first three, as attention has them."""
    widths = (tuple(a.shape[2:]) for a in arguments[:3] if isinstance(a, Tensor))
    return Form(name, tuple(widths), tuple(keywords.items()))


def _name(name: str, _arguments: Arguments, _keywords: Mapping[str, Any]) -> str:
    return name


@dataclass
class Calls:
    """The arguments of each call of some functions, by name or by another key.

    enough: bytes; further calls of a key are not kept
    """

    enough: int
    key: Callable[[str, Arguments, Mapping[str, Any]], Hashable] = _name
    kept: dict[Any, list[Arguments]] = field(default_factory=dict)

    def add(self, name: str, arguments: Arguments, keywords: Mapping[str, Any]) -> None:
        """Keep a call: those with all operands rather than those with some left out."""
        kept = self.kept.setdefault(self.key(name, arguments, keywords), [])
        lacks = missing(arguments)
        least = missing(kept[0]) if kept else lacks
        if least > lacks:
            kept.clear()
        full = len(kept) >= _MOST or sum(map(tensor_bytes, kept)) >= self.enough
        if not kept or (least == lacks and not full):
            kept.append(arguments)


def missing(arguments: Arguments) -> int:
    """How many arguments are None or zeros, as the first layer has them in place of an earlier one's."""
    return sum(argument is None or _is_zero(argument) for argument in arguments)


def _is_zero(argument: Any) -> bool:
    if not isinstance(argument, Tensor) or isinstance(argument, Parameter):
        return False
    return argument.is_floating_point() and not argument.any()


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
        bound = inspect.signature(function).bind(*arguments, **named)
        arguments, named = bound.args, bound.kwargs
    calls.add(name, arguments, named)
    return function(*arguments, **named)
