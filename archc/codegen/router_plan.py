"""The plan of the kernel that chooses experts: what its template may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.class_plan import Argument, Line, Operand


@dataclass(frozen=True)
class RouterKernel:
    """One token a program.

    loaded:  the operands that are read
    blocks:  the vectors that count along rows: name, length
    lines:   loads, steps and stores
    outputs: names, and how each is allocated
    rows:    the operand whose rows are the tokens
    """

    name: str
    equation: tuple[str, ...]
    layout: str
    operands: tuple[Operand, ...]
    loaded: tuple[str, ...]
    blocks: tuple[tuple[str, int], ...]
    lines: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]
    rows: str
    plain: tuple[Line, ...]
    template: str = "router"

    @property
    def parameters(self) -> tuple[Argument, ...]:
        return tuple(Argument(operand.name) for operand in self.operands)

    @property
    def warps(self) -> int:
        """One warp has up to 256 scores; of more, a thread has four."""
        scores = max(length for _, length in self.blocks)
        return 1 if scores <= 256 else min(scores // 128, 8)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(operand.name for operand in self.operands)

    @property
    def pointers(self) -> str:
        return ", ".join(f"{name}_ptr" for name in (*self.loaded, *(name for name, _ in self.outputs)))

    @property
    def arguments(self) -> str:
        loaded = [f"{name}.contiguous()" for name in self.loaded]
        return ", ".join([*loaded, *(name for name, _ in self.outputs)])

    @property
    def result_type(self) -> str:
        count = len(self.outputs)
        return "Tensor" if count == 1 else f"tuple[{', '.join(['Tensor'] * count)}]"

    @property
    def results(self) -> str:
        return ", ".join(name for name, _ in self.outputs)
