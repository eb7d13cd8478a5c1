"""One row of a fused op, as the kernel of the linear map after it computes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OneRow:
    """The statements for a single row of a fused op, in registers.

    width:       columns of the row that the linear map reads, and
    block:       how many of them at a time, a power of two
    warps:       of a program
    result:      the variable with that row
    others:      further results of the op, which are written as they are
    row_lines:   the launch's statements for the operands
    pointers:    the operands, and
    arguments:   what a launch passes for them
    lines:       from the operands to the results
    interleaved: whether values lie side by side in an operand, so that `lines` read its `lane`s
    template:    of the linear map's kernel
    """

    width: int
    block: int
    warps: int
    result: str
    others: tuple[str, ...]
    row_lines: tuple[str, ...]
    pointers: tuple[str, ...]
    arguments: tuple[str, ...]
    lines: tuple[str, ...]
    interleaved: bool
    template: str

    @property
    def masked(self) -> bool:
        return self.width % self.block != 0
