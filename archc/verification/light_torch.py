"""PyTorch without its own compiler, for code that runs operators on tensors without memory."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from torch import Tensor

_DISABLED = "__dynamo_disable"  # what PyTorch calls in place of a function, and keeps with it


@contextmanager
def light_torch() -> Iterator[None]:
    """Keep out modules that together take as long to import as two large kernels to compile.

    Most operators are written in Python for tensors without memory.  When one is first called, PyTorch hides
    it from its compiler, and imports that to do so; and it asks about sizes as if they could be symbols, and
    imports SymPy.
    """
    symbols = _Symbols("torch.fx.experimental.symbolic_shapes", **_OF_NUMBERS)
    algebra = _StandIn("sympy", Basic=type("Basic", (), {}))  # no number is one
    stand_ins = (_Compiler("torch._dynamo"), symbols, algebra)
    for module in stand_ins:
        sys.modules.setdefault(module.__name__, module)
    try:
        yield
    finally:
        for module in stand_ins:
            module.leave()


class _StandIn(ModuleType):
    """Has a little of a module, until anything else is wanted or the module itself may come back."""

    def __init__(self, name: str, **given: Any) -> None:
        super().__init__(name)
        self._given = given

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._given[name] if name in self._given else getattr(self._own(), name)

    def _own(self) -> ModuleType:
        self.leave()
        return importlib.import_module(self.__name__)

    def leave(self) -> None:
        self._given = {}
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


class _Compiler(_StandIn):
    """Hides no function, and leaves no trace of that."""

    def __init__(self, name: str) -> None:
        super().__init__(name, disable=self._show)
        self._visible: list[Callable[..., Any]] = []

    def _show(self, function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        self._visible.append(function)
        return function

    def leave(self) -> None:
        super().leave()
        for function in self._visible:
            vars(function).pop(_DISABLED, None)


class _Symbols(_StandIn):
    """Functions that answer for numbers themselves; some are only imported, and not called."""

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name[0] == "_" or not name.islower() else partial(self._ask, name)

    def _ask(self, name: str, *given: Any, **named: Any) -> Any:
        if name in self._given and not named and all(map(_is_number, given)):
            return self._given[name](*given)
        return getattr(self._own(), name)(*given, **named)


_OF_NUMBERS: dict[str, Callable[..., Any]] = {
    "expect_true": bool,
    "guard_or_false": bool,
    "guard_or_true": bool,
    "guard_size_oblivious": bool,
    "statically_known_true": bool,
    "sym_and": lambda *facts: all(facts),
    "sym_or": lambda *facts: any(facts),
    "sym_eq": lambda one, other: list(one) == list(other) if isinstance(one, tuple | list) else one == other,
    "is_nested_int": lambda _: False,
    "free_unbacked_symbols": lambda _: set(),
}


def _is_number(given: Any) -> bool:
    """Whether it is one, or sizes and tensors are numbers throughout."""
    if isinstance(given, Tensor):
        return _is_number(given.shape)
    return isinstance(given, int) or (isinstance(given, tuple | list) and all(map(_is_number, given)))
