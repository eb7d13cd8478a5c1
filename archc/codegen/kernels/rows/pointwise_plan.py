"""What the template of elementwise functions may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.linear.one_row import OneRow
from archc.codegen.kernels.signature import Signature
from archc.codegen.native.native_plan import NativeRows


@dataclass(frozen=True)
class PointwiseKernel:
    """An elementwise function of rows."""

    name: str
    equation: tuple[str, ...]
    layout: str
    op: CustomOp
    width: int
    block: int
    interleaved: bool  # whether pairs of values lie side by side in the rows of an operand
    warps: int
    load_lines: tuple[str, ...]
    load_lines_back: tuple[str, ...]
    forward: tuple[str, ...]
    backward: tuple[str, ...]
    store_lines: tuple[str, ...]
    row_lines: tuple[str, ...]
    row_lines_back: tuple[str, ...]
    gradient_tensors: tuple[tuple[str, str], ...]  # what the backward kernel writes, and how it is made
    vector_gradients: tuple[tuple[str, str], ...]  # gradients of vectors, summed over rows
    signature: Signature
    backward_signature: Signature
    native: NativeRows | None
    one_row: OneRow | None
    template: str = "pointwise"

    @property
    def columns(self) -> int:
        """Programs that share a row."""
        return -(-self.width // self.block)

    @property
    def masked(self) -> bool:
        return self.width % self.block != 0

    @property
    def load(self) -> str:
        return ", mask=inside, other=0.0" if self.masked else ""

    @property
    def store(self) -> str:
        return ", mask=inside" if self.masked else ""
