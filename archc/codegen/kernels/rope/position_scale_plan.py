"""What the template of factors by position may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.custom_op import CustomOp


@dataclass(frozen=True)
class PositionScaleKernel:
    """Values times a number of their token; the gradient is the same function of the results'.

    x, factor: the names of the operands
    width:     of a token's values, all heads together
    """

    name: str
    equation: tuple[str, ...]
    layout: str
    op: CustomOp
    x: str
    factor: str
    width: int
    block: int
    warps: int
    native: None = None  # a factor is not of the model's dtype
    template: str = "position_scale"

    @property
    def output(self) -> str:
        (name,) = self.op.outputs
        return name

    @property
    def columns(self) -> int:
        """Programs that share a token."""
        return -(-self.width // self.block)

    @property
    def load(self) -> str:
        return f", mask=column < {self.width}, other=0.0" if self.width % self.block else ""

    @property
    def store(self) -> str:
        return f", mask=column < {self.width}" if self.width % self.block else ""
