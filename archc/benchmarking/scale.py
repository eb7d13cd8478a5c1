"""How large the inputs are, for a device: full size on a GPU, reduced on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from archc.errors import ArchcError


@dataclass(frozen=True)
class Scale:
    """prompt: tokens of a prefill; batches of a decode step, and the context that it follows;
    rows: sequences and tokens of a training step; share: of the free memory that a run may take.
    """

    prompt: int
    batches: tuple[int, ...]
    context: int
    rows: tuple[int, int]
    share: float


GPU = Scale(prompt=8192, batches=(1, 8, 128), context=2048, rows=(4, 2048), share=0.8)
CPU = Scale(prompt=128, batches=(1, 8, 128), context=64, rows=(1, 64), share=0.3)


def scale_for(device: torch.device) -> Scale:
    """How large cases are on a device."""
    return GPU if device.type == "cuda" else CPU


def choose_device(name: str | None) -> torch.device:
    """The device of a name, or the GPU where there is one; raises `ArchcError`."""
    there = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name or there)
    except RuntimeError:
        raise ArchcError(f"no such device: {name}; give cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise ArchcError(f"no benchmarks for devices of type {device.type}: give cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ArchcError(f"no such device here: {name}; there are {torch.cuda.device_count()} GPUs")
    return device


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what PyTorch keeps for later is free
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as lines:
            found = dict(line.split(":") for line in lines)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 4 << 30  # a system that does not tell: what most have
