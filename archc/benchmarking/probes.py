"""What the device at hand can do: the copy bandwidth and the matmul rate that results are fractions of."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from archc.analysis.devices import Device
from archc.benchmarking.timing import Clock, Timer, time_in_turn


@dataclass(frozen=True)
class Rates:
    """What is reached.

    bandwidth: bytes a second of a copy, those read and those written
    flops:     operations a second of a matmul
    """

    bandwidth: float
    flops: float

    def device(self, dtype: str) -> Device:
        """The device as an analysis takes it: nothing but the two, for launches can be had for nothing."""
        return Device(
            key="probed",
            name="the device at hand",
            memory=0.0,
            bandwidth=self.bandwidth,
            matrix={dtype: self.flops},
            vector=self.flops,
            launch=0.0,
            tile=1,
            source="the probes of this run",
        )


def measure_rates(
    device: torch.device, dtype: torch.dtype, timer: Timer, clock: Clock, seconds: float
) -> Rates:
    """Time a copy of random data that no cache holds, and a square product."""
    large = device.type == "cuda"
    source = torch.randn((1 << 28) if large else (1 << 24), device=device)  # 1 GiB, or 64 MiB
    target = torch.empty_like(source)
    side = 8192 if large else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    copy = time_in_turn({"copy": lambda: target.copy_(source)}, timer, seconds / 2, clock)["copy"]
    product = time_in_turn({"matmul": lambda: a @ b}, timer, seconds / 2, clock)["matmul"]
    moved = 2 * source.numel() * source.element_size()
    return Rates(moved / copy.median, 2 * side**3 / product.median)


def cache_bytes(device: torch.device) -> int:
    """The size of the last cache before memory: what is larger does not stay in it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    return 64 << 20  # more than most, and nothing tells of it everywhere
