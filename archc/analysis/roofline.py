"""How long a device needs at least: each kernel by the resource that it waits for.  (Williams et al. 2009)"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from archc.analysis.devices import Device
from archc.analysis.kernels import Kernel, Work

MATRIX, VECTOR, MEMORY, LAUNCH = "matrix units", "vector units", "memory bandwidth", "kernel launches"


@dataclass(frozen=True)
class KernelTime:
    """All kernels of a kind: how many, their work, their time in seconds, what they wait for."""

    kind: str
    count: int
    flops: int
    bytes: int
    intensity: float
    seconds: float
    bound: str


@dataclass(frozen=True)
class Phase:
    """A forward pass, or a training step.

    seconds:           at least; tokens a second follow from it
    intensity:         FLOPs a byte
    bound:             what most of the time is spent waiting for
    kernels:           by kind, the slowest first
    """

    seconds: float
    tokens_per_second: float
    flops: int
    bytes: int
    intensity: float
    bound: str
    kernels: tuple[KernelTime, ...]


def phase(kernels: Iterable[Kernel], device: Device, dtype: str, tokens: int) -> Phase:
    """The time of kernels that run one after another and make `tokens` tokens; raises `ArchcError`."""
    peak = device.matrix_peak(dtype)
    groups: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault(kernel.kind, []).append(kernel)
    times = [_kind_time(kind, group, device, peak) for kind, group in groups.items()]
    waits = _waits([kernel for group in groups.values() for kernel in group], device, peak)
    seconds = sum(waits.values())
    flops, moved = sum(each.flops for each in times), sum(each.bytes for each in times)
    return Phase(
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        flops=flops,
        bytes=moved,
        intensity=_ratio(flops, moved),
        bound=max(waits, key=lambda resource: waits[resource]),
        kernels=tuple(sorted(times, key=lambda each: -each.seconds)),
    )


def _kind_time(kind: str, group: Sequence[Kernel], device: Device, peak: float) -> KernelTime:
    total = sum((kernel.work * kernel.times for kernel in group), Work())
    waits = _waits(group, device, peak)
    return KernelTime(
        kind=kind,
        count=sum(kernel.times for kernel in group),
        flops=total.matrix + total.vector,
        bytes=total.bytes,
        intensity=_ratio(total.matrix + total.vector, total.bytes),
        seconds=sum(waits.values()),
        bound=max(waits, key=lambda resource: waits[resource]),
    )


def _waits(kernels: Iterable[Kernel], device: Device, peak: float) -> dict[str, float]:
    """Seconds by what is waited for: each kernel's launch, and the slowest of what it keeps busy."""
    waits = dict.fromkeys((MATRIX, VECTOR, MEMORY, LAUNCH), 0.0)
    for kernel in kernels:
        busy = {
            MATRIX: kernel.work.matrix / peak,
            VECTOR: kernel.work.vector / device.vector,
            MEMORY: kernel.work.bytes / device.bandwidth,
        }
        slowest = max(busy, key=lambda resource: busy[resource])
        waits[slowest] += kernel.times * busy[slowest]
        waits[LAUNCH] += kernel.times * device.launch
    return waits


def _ratio(flops: int, moved: int) -> float:
    return flops / moved if moved else 0.0
