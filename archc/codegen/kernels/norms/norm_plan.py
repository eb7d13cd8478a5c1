"""What the template of norms may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.linear.one_row import OneRow
from archc.codegen.kernels.masks import store_where
from archc.codegen.kernels.norms.wide_norm import WideNorm
from archc.codegen.kernels.signature import Signature
from archc.codegen.native.native_plan import NativeRows

_WARPS = 16  # of a multiprocessor


@dataclass(frozen=True)
class NormGradient:
    """A kernel for the gradient of norms, in the order of its statements; `weights` are those it sums for.

    `wide` is there where a row does not fit in registers; then it is the gradient of one norm.
    `stages`: how many rows are under way at a time, with the one in work, as a launch takes it; "" if wide.
    `absent` names the operand without which there is nothing to do, "" for none.
    """

    suffix: str
    signature: Signature
    weights: tuple[str, ...]
    weight_lines: tuple[str, ...]
    lines: tuple[str, ...]
    warps: int
    stages: str
    wide: WideNorm | None
    absent: str

    @property
    def grid(self) -> str:
        groups = self.wide.groups if self.wide else 1
        return f"(programs, {groups})" if groups > 1 else "(programs,)"


@dataclass(frozen=True)
class NormKernel:
    """A row of sums, norms before and after them.

    Its gradient is one kernel, or where a row does not fit in registers one for each norm.
    """

    name: str
    equation: tuple[str, ...]
    layout: str
    op: CustomOp
    width: int
    block: int
    warps: int
    forward_lines: tuple[str, ...]
    row_lines: tuple[str, ...]
    signature: Signature
    weights: tuple[str, ...]
    targets: tuple[str, ...]  # gradients of rows
    source: str  # what the outermost norm reads
    source_lines: tuple[str, ...]
    gradients: tuple[NormGradient, ...]
    native: NativeRows | None
    one_row: OneRow | None
    template: str

    @property
    def programs(self) -> int:
        """How many programs of a multiprocessor share rows: of so many warps that its memory is busy."""
        return max(_WARPS // self.gradients[0].warps, 2)

    @property
    def masked(self) -> bool:
        return self.block != self.width

    @property
    def store(self) -> str:
        return store_where("inside") if self.masked else ""
