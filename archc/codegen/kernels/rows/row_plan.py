"""What the template of rows may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.linear.one_row import OneRow
from archc.codegen.kernels.masks import store_where
from archc.codegen.kernels.signature import Signature
from archc.codegen.native.native_plan import NativeRows

_WARPS = 16  # of a multiprocessor


@dataclass(frozen=True)
class Columns:
    """So many values beside one another: the variables of a kernel that hold their places, and the mask."""

    count: int
    block: int
    column: str
    mask: str


@dataclass(frozen=True)
class RowKernel:
    """Elementwise ops, norms and sums of a row in registers."""

    name: str
    equation: tuple[str, ...]
    layout: str
    op: CustomOp
    width: int
    rows: str  # how many there are, in the launch
    rows_back: str
    columns: tuple[Columns, ...]
    columns_back: tuple[Columns, ...]
    warps: int
    warps_back: int
    stages: int  # how many rows are under way at a time, with the one in work, in the gradient
    forward_lines: tuple[str, ...]
    signature: Signature
    row_lines: tuple[str, ...]
    common_lines: tuple[str, ...]  # what all rows read
    # What of it has gradients that programs add up; None for one number.
    common: tuple[tuple[str, Columns | None], ...]
    backward_lines: tuple[str, ...]
    backward_signature: Signature
    row_lines_back: tuple[str, ...]
    gradient_tensors: tuple[tuple[str, str], ...]  # what the backward kernel writes, and how it is made
    gradient_sums: tuple[tuple[str, str], ...]  # gradients of what several rows read
    native: NativeRows | None
    one_row: OneRow | None
    template: str = "row"

    @property
    def programs(self) -> int:
        """How many programs of a multiprocessor share rows: of so many warps that its memory is busy."""
        return max(_WARPS // self.warps_back, 2)

    def store(self, columns: Columns) -> str:
        return store_where(columns.mask)
