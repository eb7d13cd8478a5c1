"""What the kernels of a package move, counted in Triton's interpreter.

Every address that a kernel loads or stores is counted, by the tensor that it lies in: for a program's first
access to it, which memory has to serve, and for further ones, which a cache may.  What PyTorch moves between
the kernels of an op counts too.  Run in a process with TRITON_INTERPRET=1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# A method of the interpreter -> kinds of access, the places of its pointers and of its mask.
_ACCESSES: dict[str, tuple[tuple[str, ...], int, int]] = {
    "create_masked_load": (("load",), 0, 1),
    "create_masked_store": (("store",), 0, 2),
    "create_atomic_rmw": (("load", "store"), 1, 3),
}
_FREE = {"empty", "empty_like", "new_empty", "empty_strided"}  # they move nothing


@dataclass
class Moved:
    """Bytes moved of one tensor of `size` bytes: at first accesses of its programs, and again."""

    size: int
    first: int = 0
    again: int = 0


@dataclass
class Traffic:
    """What was moved, by kernel or PyTorch op, tensor and kind of access."""

    moved: dict[tuple[str, str, str], Moved] = field(default_factory=dict)

    def entry(self, place: str, tensor: str, kind: str, size: int) -> Moved:
        return self.moved.setdefault((place, tensor, kind), Moved(size))


@dataclass(frozen=True)
class _Region:
    name: str
    start: int
    end: int


class _Meter:
    """Counts the accesses of the kernel that runs."""

    def __init__(self, traffic: Traffic):
        self._traffic = traffic
        self._kernel = ""
        self._regions: list[_Region] = []
        self._seen: dict[tuple[str, str], np.ndarray] = {}

    @property
    def running(self) -> bool:
        """Whether a kernel runs, whose interpreter is PyTorch's caller then."""
        return bool(self._kernel)

    def launch(self, kernel: str, names: Sequence[str], arguments: Sequence[Any]) -> None:
        self._kernel = kernel
        self._regions = [
            _Region(name, tensor.data_ptr(), tensor.data_ptr() + _span(tensor))
            for name, tensor in zip(names, arguments, strict=False)
            if isinstance(tensor, Tensor)
        ]

    def end(self) -> None:
        self._kernel = ""

    def program(self) -> None:
        self._seen = {}

    def access(self, kind: str, addresses: np.ndarray, size: int) -> None:
        for region in self._regions:
            inside = addresses[(addresses >= region.start) & (addresses < region.end)]
            if inside.size:
                self._count(region, kind, inside, size)

    def _count(self, region: _Region, kind: str, addresses: np.ndarray, size: int) -> None:
        entry = self._traffic.entry(self._kernel, region.name, kind, region.end - region.start)
        seen = self._seen.setdefault((region.name, kind), np.zeros(entry.size // size, bool))
        before = np.count_nonzero(seen)
        seen[(addresses - region.start) // size] = True
        fresh = int(np.count_nonzero(seen) - before)
        entry.first += fresh * size
        entry.again += (addresses.size - fresh) * size


class _Between(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what PyTorch's own ops read and write."""

    def __init__(self, meter: _Meter, traffic: Traffic):
        super().__init__()  # type: ignore[no-untyped-call]
        self._meter = meter
        self._traffic = traffic

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        free = func.is_view or func.overloadpacket.__name__ in _FREE or not isinstance(result, Tensor)
        if not free and not self._meter.running:
            read = [tensor for tensor in args if isinstance(tensor, Tensor)]
            for kind, tensors in (("load", read), ("store", [result])):
                size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
                entry = self._traffic.entry(str(func), "", kind, 0)
                entry.size += size
                entry.first += size
        return result


def measure(run: Callable[[], Any]) -> Traffic:
    """What a function's kernels and PyTorch ops move."""
    traffic = Traffic()
    meter = _Meter(traffic)
    with _metered(meter), _Between(meter, traffic):
        run()
    return traffic


@contextmanager
def _metered(meter: _Meter) -> Iterator[None]:
    """Let Triton's interpreter report to a meter."""
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

    changed: list[tuple[Any, str, Any]] = []

    def wrap(
        owner: Any, name: str, before: Callable[..., None], after: Callable[[], None] = lambda: None
    ) -> None:
        original = getattr(owner, name)
        changed.append((owner, name, original))

        def wrapped(self: Any, *arguments: Any, **settings: Any) -> Any:
            before(self, *arguments)
            result = original(self, *arguments, **settings)
            after()
            return result

        setattr(owner, name, wrapped)

    for name, (kinds, pointers, mask) in _ACCESSES.items():
        wrap(InterpreterBuilder, name, partial(_report, meter, kinds, pointers, mask))
    wrap(InterpreterBuilder, "set_grid_idx", lambda *_: meter.program())
    wrap(GridExecutor, "__call__", partial(_launch, meter), meter.end)
    try:
        yield
    finally:
        for owner, name, original in changed:
            setattr(owner, name, original)


def _launch(meter: _Meter, grid: Any, *given: Any) -> None:
    meter.launch(grid.fn.__name__, grid.arg_names, given)


def _report(meter: _Meter, kinds: Sequence[str], place: int, mask: int, _: Any, *given: Any) -> None:
    pointers = given[place]
    inside = np.broadcast_to(given[mask].data, pointers.data.shape)
    size = pointers.get_element_ty().primitive_bitwidth // 8
    for kind in kinds:
        meter.access(kind, pointers.data[inside], size)


def _span(tensor: Tensor) -> int:
    """Bytes from a tensor's first value to behind its last one."""
    if not tensor.numel():
        return 0
    last = sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()
