"""What the template of norms may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.custom_op import CustomOp
from archc.codegen.wide_norm import WideNorm


@dataclass(frozen=True)
class NormKernel:
    """A row of sums and one norm.  `wide` is there where a row's gradient does not fit in registers."""

    name: str
    equation: tuple[str, ...]
    layout: str
    op: CustomOp
    width: int
    block: int
    warps: int
    sums: bool
    total: str  # what the norm reads
    result: str
    weight: bool
    weights: tuple[str, ...]
    sum_lines: tuple[str, ...]
    norm_lines: tuple[str, ...]
    result_lines: tuple[str, ...]
    gradient_lines: tuple[str, ...]
    row_lines: tuple[str, ...]
    forward_parameters: tuple[str, ...]
    forward_arguments: tuple[str, ...]
    backward_parameters: tuple[str, ...]
    backward_arguments: tuple[str, ...]
    backward_warps: int
    wide: WideNorm | None
    template: str

    @property
    def backward_grid(self) -> str:
        groups = self.wide.groups if self.wide else 1
        return f"(programs, {groups})" if groups > 1 else "(programs,)"

    @property
    def masked(self) -> bool:
        return self.block != self.width

    @property
    def load(self) -> str:
        return ", mask=inside, other=0.0" if self.masked else ""

    @property
    def store(self) -> str:
        return ", mask=inside" if self.masked else ""
