"""One row of a fused op, as the kernel of the linear map after it computes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """How a linear map reads the row of the op before it.

    kept: whether others read the row too, so that it is written
    wide: whether the product is float32 whatever the row is
    """

    kept: bool
    wide: bool

    @property
    def suffix(self) -> str:
        """Of the function for both, after the name of the op's own."""
        return ("_and" if self.kept else "") + ("_wide_linear" if self.wide else "_linear")

    def after(self, op: str) -> str:
        """What measurements call the op before the map."""
        return ", ".join([op, *(["kept"] if self.kept else []), *(["wide"] if self.wide else [])])


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
