"""PyTorch without its own compiler, for code that runs operators on tensors without memory."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_NAME = "torch._dynamo"
_DISABLED = "__dynamo_disable"  # what PyTorch calls in place of a function, and keeps with it


@contextmanager
def without_dynamo() -> Iterator[None]:
    """Keep torch._dynamo out, which takes as long to import as a large kernel to compile.

    Most operators are written in Python for tensors without memory.  When one is first called, PyTorch hides
    it from its compiler, and imports that to do so.
    """
    stand_in = _StandIn(_NAME)
    sys.modules.setdefault(_NAME, stand_in)
    try:
        yield
    finally:
        stand_in.leave()


class _StandIn(ModuleType):
    """Hides no function; whoever wants anything else gets the module itself."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._visible: list[Callable[..., Any]] = []

    def disable(self, function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        self._visible.append(function)
        return function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(_NAME), name)

    def leave(self) -> None:
        """Give way to the module itself, from which functions are then hidden."""
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
        for function in self._visible:
            vars(function).pop(_DISABLED, None)
