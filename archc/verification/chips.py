"""Chips that kernels are compiled for; they need not be there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Chip:
    """A chip that Triton compiles for.  `shared` is how many bytes of shared memory a program may have."""

    name: str
    backend: str
    arch: int | str
    warp: int
    shared: int

    @property
    def target(self) -> Any:
        """The chip as Triton names it."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget(self.backend, self.arch, self.warp)


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("sm_80", "cuda", 80, 32, 163 * 1024),
        Chip("sm_90", "cuda", 90, 32, 227 * 1024),
        Chip("sm_100", "cuda", 100, 32, 227 * 1024),
        Chip("gfx942", "hip", "gfx942", 64, 64 * 1024),
    )
}
