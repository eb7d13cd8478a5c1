"""The plan of the kernel that chooses experts: what its template may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.custom_op import CustomOp


@dataclass(frozen=True)
class RouterPass:
    """One way through the choice, of one token a program.

    read:    the tensors that are read
    written: those that are written
    blocks:  the vectors that count along rows: name, length
    lines:   loads, steps and stores
    """

    read: tuple[str, ...]
    written: tuple[str, ...]
    blocks: tuple[tuple[str, int], ...]
    lines: tuple[str, ...]

    @property
    def warps(self) -> int:
        """One warp has up to 256 scores; of more, a thread has four."""
        scores = max(length for _, length in self.blocks)
        return 1 if scores <= 256 else min(scores // 128, 8)

    @property
    def pointers(self) -> str:
        return ", ".join(f"{name}_ptr" for name in (*self.read, *self.written))

    @property
    def arguments(self) -> str:
        return ", ".join([*(f"{name}.contiguous()" for name in self.read), *self.written])


@dataclass(frozen=True)
class RouterKernel:
    """The choice and the arithmetic around it, and the gradient of that.

    backward:  None where nothing but the choice itself comes out
    allocated: what the gradient's kernel writes, and how it is made
    sums:      gradients of vectors that all tokens share, and the sums that they are
    """

    name: str
    equation: tuple[str, ...]
    layout: str
    op: CustomOp
    forward: RouterPass
    backward: RouterPass | None
    allocated: tuple[tuple[str, str], ...]
    sums: tuple[tuple[str, str], ...]
    native: None = None
    template: str = "router"
