"""Triton's interpreter, watched: who is launched, which program runs, and every access to memory.

Run in a process with TRITON_INTERPRET=1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Access:
    """Addresses that a program touches at once, those of lanes that no mask leaves out.

    `kind`: "load", "store" or "atomic".  `size`: bytes of a value.  `values`: what is stored, one an address.
    """

    kind: str
    addresses: np.ndarray
    size: int
    values: np.ndarray | None = None


class Watcher(Protocol):
    """What a watcher is told of, before it is done."""

    def launch(self, kernel: str, tensors: Sequence[tuple[str, Tensor]]) -> None:
        """A kernel will run, on tensors by its parameters' names."""

    def program(self, place: tuple[int, ...], grid: tuple[int, ...]) -> None:
        """The next program of the kernel's grid will run."""

    def access(self, access: Access) -> None:
        """The program will touch memory."""

    def barrier(self) -> None:
        """The program's threads wait for each other."""

    def end(self) -> None:
        """The kernel has run."""


# A method of the interpreter -> the kind of access, the places of its pointers, its mask and what is stored.
_ACCESSES: dict[str, tuple[str, int, int | None, int | None]] = {
    "create_masked_load": ("load", 0, 1, None),
    "create_masked_store": ("store", 0, 2, 1),
    "create_atomic_rmw": ("atomic", 1, 3, None),
    "create_atomic_cas": ("atomic", 0, None, None),
}


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Let Triton's interpreter tell a watcher of what it does."""
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

    changed: list[tuple[Any, str, Any]] = []

    def wrap(
        owner: Any, name: str, before: Callable[..., None], after: Callable[[], None] = lambda: None
    ) -> None:
        original = getattr(owner, name)
        changed.append((owner, name, original))

        def wrapped(self: Any, *arguments: Any, **settings: Any) -> Any:
            before(self, *arguments, **settings)
            result = original(self, *arguments, **settings)
            after()
            return result

        setattr(owner, name, wrapped)

    for name, places in _ACCESSES.items():
        wrap(InterpreterBuilder, name, partial(_access, watcher, *places))
    wrap(InterpreterBuilder, "create_barrier", lambda *_, **__: watcher.barrier())
    wrap(InterpreterBuilder, "set_grid_idx", lambda self, *place: watcher.program(place, self.grid_dim))
    wrap(GridExecutor, "__call__", partial(_launch, watcher), watcher.end)
    try:
        yield
    finally:
        for owner, name, original in reversed(changed):
            setattr(owner, name, original)


def _launch(watcher: Watcher, grid: Any, *given: Any, **settings: Any) -> None:
    named = [*zip(grid.arg_names, given, strict=False), *settings.items()]
    watcher.launch(grid.fn.__name__, [(name, value) for name, value in named if isinstance(value, Tensor)])


def _access(
    watcher: Watcher,
    kind: str,
    place: int,
    mask: int | None,
    stored: int | None,
    _: Any,
    *given: Any,
    **__: Any,
) -> None:
    pointers = given[place]
    shape = pointers.data.shape
    inside = np.broadcast_to(True if mask is None else given[mask].data, shape)
    size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
    values = None if stored is None else np.broadcast_to(given[stored].data, shape)[inside]
    watcher.access(Access(kind, pointers.data[inside], size, values))


def extent(tensor: Tensor) -> int:
    """Bytes from a tensor's first value to the end of its last one."""
    if not tensor.numel():
        return 0
    last = sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()
