"""Hazards of kernels, found in Triton's interpreter: `pytest --hazards`.

The interpreter runs the programs of a grid, and the lanes of a program, one after the other: what would be
undefined or out of order on a GPU has one outcome there.  With the option every access to memory is held
against the tensors of its launch and against what other programs touched; the first that may go wrong fails
the test.  It says what compute-sanitizer's memcheck, initcheck and racecheck would of global memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partialmethod
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.instruments.watched import Access, extent, watched

OPTION = "--hazards"
GRID = 65535  # programs along a grid's second and third axis that a launch may have
_ATOMIC = -1  # in place of a program's number: any, by atomics
_SEVERAL = -2

_on = False
_watch = ExitStack()


class HazardError(AssertionError):
    """A kernel does what has no certain outcome on a GPU."""


def enter() -> None:
    """From now on hazards fail tests."""
    global _on
    _on = True


def is_on() -> bool:
    """Whether the tests of this process look for hazards."""
    return _on


def watch() -> None:
    """Hold all further launches of this process, which interprets, against what may go wrong."""
    rest()
    _watch.enter_context(watching())


def rest() -> None:
    """Look away until the next test: what this one runs is wrong on purpose, or others watch it."""
    _watch.close()


@contextmanager
def watching() -> Iterator[None]:
    """Hold launches against what may go wrong."""
    from triton.runtime.interpreter import TensorHandle, interpreter_builder

    options = replace(interpreter_builder.options, debug=True)  # Triton's own check of integers' overflow
    with pytest.MonkeyPatch.context() as patch, watched(Hazards()):
        patch.setattr(interpreter_builder, "options", options)
        patch.setattr(TensorHandle, "set_attr", partialmethod(_hint, TensorHandle.set_attr))
        yield


# ---------------------------------------------------------------------- memory


class _Memory:
    """The bytes of a launch's tensors, side by side, and what is known of the value that begins at each.

    `inside`: one of a tensor's values does.  `unset`: nothing has written it.  `storer` and `loader`: the
    program that did so, by its number from 1; 0 is none.  `when`: barriers of the program before it stored.
    """

    def __init__(self, tensors: Sequence[tuple[str, Tensor]]):
        there = sorted(
            ((t.data_ptr(), name, t) for name, t in tensors if t.numel()), key=lambda each: each[0]
        )
        spans = [(0, 0), *_merged((start, start + extent(tensor)) for start, _, tensor in there)]
        self._starts = np.array([start for start, _ in spans], np.uint64)
        self._ends = np.array([end for _, end in spans], np.uint64)
        self._offsets = np.cumsum([0, *(end - start for start, end in spans)])[:-1]
        self._names = [("no tensor", 0), *((name, start) for start, name, _ in there)]
        size = sum(end - start for start, end in spans) + 1  # and one that is in no tensor
        self.inside, self.unset = np.zeros(size, bool), np.zeros(size, bool)
        self.storer, self.loader, self.when = (np.zeros(size, np.int32) for _ in range(3))
        for start, _, tensor in there:
            self._mark(tensor, int(self.places(np.array([start], np.uint64))[0]))

    def _mark(self, tensor: Tensor, place: int) -> None:
        for dim, step in enumerate(tensor.stride()):
            tensor = tensor if step else tensor.narrow(dim, 0, 1)  # one value in many places
        size = tensor.element_size()
        where = tensor.shape, [step * size for step in tensor.stride()], place
        torch.from_numpy(self.inside).as_strided(*where).fill_(True)
        torch.from_numpy(self.unset).as_strided(*where).copy_(_is_unset(tensor.detach()))

    def places(self, addresses: np.ndarray) -> np.ndarray:
        """Where addresses are in this; -1 for those in no tensor."""
        span = np.searchsorted(self._starts, addresses, side="right") - 1
        place = (addresses - self._starts[span]).astype(np.int64) + self._offsets[span]
        return np.where(addresses < self._ends[span], place, -1)

    def name(self, address: int) -> str:
        """An address in words: bytes after the start of the last tensor before it."""
        name, start = [each for each in self._names if each[1] <= address][-1]
        return f"{name} + {address - start} bytes"


def _merged(spans: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that overlap as one."""
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _is_unset(tensor: Tensor) -> Tensor | bool:
    """Which values have the bits that tests let PyTorch fill new memory with."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensor.element_size())
    if bits is None:
        return torch.tensor(False)
    largest = torch.nan if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max
    return tensor.view(bits) == torch.tensor(largest, dtype=tensor.dtype).view(bits)


# --------------------------------------------------------------------- watcher


class Hazards:
    """Raises when the kernel that runs does what may go wrong."""

    def __init__(self) -> None:
        self._kernel = ""
        self._memory = _Memory([])
        self._program = 0
        self._place: tuple[int, ...] = ()
        self._barriers = 0

    def launch(self, kernel: str, tensors: Sequence[tuple[str, Tensor]]) -> None:
        self._kernel = kernel
        self._memory = _Memory(tensors)
        self._program = 0

    def program(self, place: tuple[int, ...], grid: tuple[int, ...]) -> None:
        if max(grid[1:]) > GRID:
            raise HazardError(f"{self._kernel} is launched for {grid}, more than {GRID} along an axis")
        self._program += 1
        self._place = place
        self._barriers = 0

    def barrier(self) -> None:
        self._barriers += 1

    def end(self) -> None:
        self._memory = _Memory([])

    def access(self, access: Access) -> None:
        if not access.addresses.size:
            return
        memory, addresses = self._memory, access.addresses
        place = memory.places(addresses)
        self._fail_if(~memory.inside[place], f"{access.kind}s outside of its tensors", addresses)
        if access.kind == "load":
            self._load(place, addresses)
        elif access.kind == "store":
            self._store(place, access)
        else:
            self._change(place, addresses)

    def _load(self, place: np.ndarray, addresses: np.ndarray) -> None:
        memory, me = self._memory, self._program
        storer = memory.storer[place]
        self._fail_if((storer != 0) & (storer != me), "loads what another program stores", addresses)
        self._fail_if(
            (storer == me) & (memory.when[place] == self._barriers),
            "loads what it stored, and no barrier is between",
            addresses,
        )
        self._fail_if(memory.unset[place], "loads what nothing has written", addresses)
        loader = memory.loader[place]
        memory.loader[place] = np.where((loader == 0) | (loader == me), me, _SEVERAL)

    def _store(self, place: np.ndarray, access: Access) -> None:
        """Several programs may store the same bits: in whatever order, nobody sees others."""
        memory, me, addresses = self._memory, self._program, access.addresses
        bits = np.ascontiguousarray(access.values).view(f"u{access.size}")
        order = np.argsort(place, kind="stable")
        again = (np.diff(place[order]) == 0) & (bits[order][1:] != bits[order][:-1])
        self._fail_if(again, "stores two values at one address at once", addresses[order][1:])
        changes = bits != _held(addresses, bits.dtype)
        for who, does in ((memory.storer[place], "stores"), (memory.loader[place], "loads")):
            other = changes & (who != 0) & (who != me)
            self._fail_if(other, f"stores what another program {does}", addresses)
        memory.storer[place], memory.when[place], memory.unset[place] = me, self._barriers, False

    def _change(self, place: np.ndarray, addresses: np.ndarray) -> None:
        memory = self._memory
        for who, does in ((memory.storer[place], "stores"), (memory.loader[place], "loads")):
            other = (who != 0) & (who != _ATOMIC)
            self._fail_if(other, f"changes by atomics what a program {does} otherwise", addresses)
        self._fail_if(memory.unset[place], "changes what nothing has written", addresses)
        memory.storer[place] = _ATOMIC

    def _fail_if(self, found: np.ndarray, what: str, addresses: np.ndarray) -> None:
        if found.any():
            self._fail(what, int(np.count_nonzero(found)), int(addresses[found][0]))

    def _fail(self, what: str, count: int, address: int) -> NoReturn:
        where = f"{count} times, first at {self._memory.name(address)}"
        raise HazardError(f"{self._kernel}, its program {self._place}, {what}: {where}")


def _held(addresses: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The bits in memory."""
    from triton.runtime.interpreter import _interpreter

    everywhere, zeros = np.ones(addresses.shape, bool), np.zeros(addresses.shape, dtype)
    held: np.ndarray = _interpreter.load(addresses, everywhere, zeros, dtype)
    return held


# ----------------------------------------------------------------------- hints


def _hint(handle: Any, note: Callable[..., None], hint: str, sizes: Sequence[int]) -> None:
    """A hint that is not true fails: the compiler believes it."""
    axes = range(handle.data.ndim - len(sizes), handle.data.ndim)
    for axis, size in zip(axes, sizes, strict=True):
        if not _HINTS[hint](np.moveaxis(handle.data, axis, -1).astype(np.int64), size):
            raise HazardError(f"{hint} = {size} along axis {axis} is not true")
    note(handle, hint, sizes)


def _steps(values: np.ndarray, size: int) -> np.ndarray:
    """Differences of neighbours within groups of a size, which begin at its multiples."""
    groups = values.reshape(*values.shape[:-1], -1, min(size, values.shape[-1]))
    return np.diff(groups, axis=-1)


def _run_starts(values: np.ndarray) -> np.ndarray:
    """The first value of each run of consecutive ones, of which alone divisibility is said."""
    first = np.ones(values.shape, bool)
    first[..., 1:] = np.diff(values, axis=-1) != 1
    return values[first]


_HINTS = {
    "tt.divisibility": lambda values, size: not (_run_starts(values) % size).any(),
    "tt.contiguity": lambda values, size: bool((_steps(values, size) == 1).all()),
    "tt.constancy": lambda values, size: not _steps(values, size).any(),
}
