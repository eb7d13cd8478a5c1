"""Launches on tensors too large for any memory, of which a few programs run.

The tensors are addresses that the operating system backs with zeros where they are touched.  Programs at the
corners of a grid have the smallest and the largest offsets; where there may be more programs than tiles, as
for experts, the last have nothing to do, and one in the middle has.  Of long loops the ends are run.
"""

from __future__ import annotations

import inspect
import itertools
import mmap
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.codegen.hazards import GRID, HazardError, rest
from tests.instruments.watched import Access, extent, watched

_LOOP = 300  # turns that a loop may have to be run as a whole: those over experts, and over heads
_WITHOUT_RESERVE = 0x4000  # Linux's MAP_NORESERVE
_LARGEST = 2**31  # values, or bytes, that 32 bits count


class _Bounds:
    """Holds addresses against the tensors of a launch: how far from a tensor's first one are they?"""

    def __init__(self, kernel: str, tensors: Sequence[Tensor]):
        self._kernel = kernel
        self._spans = [(tensor.data_ptr(), tensor.data_ptr() + extent(tensor)) for tensor in tensors]
        self.largest = max(end - start for start, end in self._spans)
        self.furthest = 0

    def launch(self, *_: Any) -> None:
        """It is the one that this was made for."""

    def program(self, place: tuple[int, ...], grid: tuple[int, ...]) -> None:
        if max(grid[1:]) > GRID:
            raise HazardError(f"{self._kernel} is launched for {grid}, program {place}")

    def barrier(self) -> None:
        """Programs do not wait here."""

    def end(self) -> None:
        """How far it came is held against all launches of its kernel."""

    def access(self, access: Access) -> None:
        if not access.addresses.size:
            return
        lowest, highest = int(access.addresses.min()), int(access.addresses.max())
        around = [start for start, end in self._spans if start <= lowest and highest < end]
        if around:
            self.furthest = max(self.furthest, highest - min(around))
        else:
            self._apart(access)

    def _apart(self, access: Access) -> None:
        """No tensor holds all of these addresses: each is to be in some."""
        inside = np.zeros(access.addresses.shape, bool)
        for start, end in self._spans:
            here = (access.addresses >= start) & (access.addresses < end)
            inside |= here
            if here.any():
                self.furthest = max(self.furthest, int(access.addresses[here].max()) - start)
        if not inside.all():
            raise HazardError(f"{self._kernel} {access.kind}s outside of its tensors")


@contextmanager
def far_tensors() -> Iterator[Collection[str]]:
    """Run kernels that are launched on tensors without memory so, at the end, when it tells their names.

    Of launches alike the first and the last are run.  Some launch of each kernel that is given something
    far touches it.
    """
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, interpreter_builder

    rest()  # `_Bounds` looks at these launches
    found: dict[Any, list[dict[str, Any]]] = {}

    def launch(self: Any, *given: Any, grid: tuple[int, ...], **named: Any) -> None:
        own = {name: value for name, value in named.items() if name in self.arg_names}  # not the compiler's
        arguments = inspect.getcallargs(self.fn, *given, **own)
        constants = _constants(self)
        key = self, grid, tuple(_described(value, name in constants) for name, value in arguments.items())
        found.setdefault(key, []).append(arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter_builder, "options", replace(interpreter_builder.options, debug=True))
        patch.setattr(InterpretedFunction, "run", launch)
        patch.setattr(tl, "range", _ends)
        patch.setattr(InterpreterBuilder, "create_dot", _dot_beside_zeros(InterpreterBuilder.create_dot))
        names: list[str] = []
        yield names
        names += [kernel.__name__ for kernel, *_ in found]
        _run(found)


def _run(found: dict[Any, list[dict[str, Any]]]) -> None:
    """The first and the last of launches that differ in numbers alone, as those of a sequence's parts do."""
    touched: dict[Any, tuple[int, int]] = {}
    for (kernel, grid, _), alike in found.items():
        for arguments in (alike[0], alike[-1])[: len(alike)]:
            bounds = _launch(kernel, grid, arguments)
            largest, furthest = touched.get(kernel, (0, 0))
            touched[kernel] = max(largest, bounds.largest), max(furthest, bounds.furthest)
    for kernel, (largest, furthest) in touched.items():
        if largest > 2 * _LARGEST and furthest < _LARGEST:
            raise HazardError(f"{kernel.__name__} touches nothing far of {largest:,} bytes")


def _constants(kernel: Any) -> set[str]:
    annotations = inspect.get_annotations(kernel.fn)
    return {name for name, kind in annotations.items() if "constexpr" in str(kind)}


def _described(argument: Any, constant: bool) -> Any:
    """What makes a launch another one: all but numbers."""
    if not isinstance(argument, Tensor):
        return None if isinstance(argument, int) and not constant else argument
    return argument.shape, argument.stride(), argument.dtype, argument.untyped_storage().nbytes()


def _launch(kernel: Any, grid: tuple[int, ...], given: dict[str, Any]) -> _Bounds:
    from triton.runtime.interpreter import _implicit_cvt, interpreter_builder

    function = kernel.rewrite()
    constants = _constants(kernel)
    real = _real(given)
    bounds = _Bounds(kernel.__name__, [value for value in real.values() if isinstance(value, Tensor)])
    arguments = {name: v if name in constants else _implicit_cvt(v) for name, v in real.items()}
    grid = (*grid, 1, 1)[:3]
    interpreter_builder.set_grid_dim(*grid)
    with ExitStack() as stack:
        stack.enter_context(watched(bounds))
        stack.enter_context(pytest.MonkeyPatch.context()).setitem(function.__globals__, "range", _ends)
        ends = [{0, count - 1} for count in grid]
        for place in itertools.product(ends[0] | {grid[0] // 2}, *ends[1:]):
            interpreter_builder.set_grid_idx(*place)
            function(**arguments)
    return bounds


def _dot_beside_zeros(multiplied: Callable[..., Any]) -> Callable[..., Any]:
    """A product with zeros, as most of these are, adds nothing: half of the time went into such."""

    def dot(self: Any, a: Any, b: Any, total: Any, *further: Any) -> Any:
        return multiplied(self, a, b, total, *further) if a.data.any() and b.data.any() else total

    return dot


def _ends(*bounds: Any, **_: Any) -> Sequence[int]:
    turns = range(*map(int, bounds))
    return turns if len(turns) <= _LOOP else [*turns[:2], *turns[-2:]]


# --------------------------------------------------------------------- tensors


def _real(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments with addresses for their tensors, and what shows the way through them."""
    stores: dict[int, Tensor] = {}
    real = {name: _placed(v, stores) if isinstance(v, Tensor) else v for name, v in given.items()}
    for name, contents in _WAYS.items():
        if isinstance(real.get(name), Tensor):
            real[name].copy_(contents(real))
    return real


def _placed(tensor: Tensor, stores: dict[int, Tensor]) -> Tensor:
    storage = tensor.untyped_storage()
    if storage._cdata not in stores:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _WITHOUT_RESERVE
        memory = mmap.mmap(-1, max(storage.nbytes(), mmap.PAGESIZE), flags=flags)
        stores[storage._cdata] = torch.frombuffer(memory, dtype=torch.uint8)
    size = tensor.element_size()
    bytes_ = stores[storage._cdata]
    whole = bytes_[: len(bytes_) // size * size].view(tensor.dtype)
    return whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _in_order(name: str) -> Callable[[dict[str, Any]], Tensor]:
    return lambda real: torch.arange(real[name].numel()).view(real[name].shape)


def _last_place(real: dict[str, Any]) -> Tensor:
    """Of a cache that has room for one token yet."""
    return torch.tensor(real.get("max_length", real.get("length", 0)) - 1)


def _position(real: dict[str, Any]) -> Tensor:
    """Of the last tokens of a cache; of all where a kernel knows no keys, as for a recurrence."""
    own = real["positions_ptr"]
    keys = real.get("key_positions_ptr", own)
    return _in_order("positions_ptr")(real) + len(keys.mT) - len(own.mT)


def _ends_of_experts(real: dict[str, Any]) -> Tensor:
    """As many rows for each."""
    order, count = real.get("order_ptr"), len(real["ends_ptr"])
    rows = [len(real[name]) for name in ("x_ptr", "dy_ptr") if name in real]
    choices = max(rows) if order is None else order.numel()
    return torch.arange(1, count + 1) * choices // count


def _sorted_tokens(real: dict[str, Any]) -> Tensor:
    """All of a vocabulary, and the last one once."""
    places, rows = len(real["token_ptr"]), len(real["dweight_ptr"])
    return (
        (torch.arange(places) * rows // places)
        .clamp(max=rows - 2)
        .index_fill(0, torch.tensor(places - 1), rows - 1)
    )


# A kernel's parameter -> numbers by which it finds its way, as large as they may be.
_WAYS: dict[str, Callable[[dict[str, Any]], Tensor]] = {
    "filled_ptr": _last_place,
    "positions_ptr": _position,
    "key_positions_ptr": _in_order("key_positions_ptr"),
    "order_ptr": _in_order("order_ptr"),
    "places_ptr": _in_order("places_ptr"),
    "ends_ptr": _ends_of_experts,
    "token_ptr": _sorted_tokens,
}
