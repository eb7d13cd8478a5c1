"""What the kernels of a package move, counted in Triton's interpreter.

Every address that a kernel loads or stores is counted, by the tensor that it lies in: for a program's first
access to it, which memory has to serve, and for further ones, which a cache may.  What PyTorch moves between
the kernels of an op counts too.  Run in a process with TRITON_INTERPRET=1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.instruments.watched import Access, extent, watched

_KINDS = {"load": ("load",), "store": ("store",), "atomic": ("load", "store")}
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

    def launch(self, kernel: str, tensors: Sequence[tuple[str, Tensor]]) -> None:
        self._kernel = kernel
        self._regions = [
            _Region(name, tensor.data_ptr(), tensor.data_ptr() + extent(tensor)) for name, tensor in tensors
        ]

    def end(self) -> None:
        self._kernel = ""

    def program(self, *_: Any) -> None:
        self._seen = {}

    def barrier(self) -> None:
        """It moves nothing."""

    def access(self, access: Access) -> None:
        for region in self._regions:
            inside = access.addresses[(access.addresses >= region.start) & (access.addresses < region.end)]
            for kind in _KINDS[access.kind] if inside.size else ():
                self._count(region, kind, inside, access.size)

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
    with watched(meter), _Between(meter, traffic):
        run()
    return traffic
