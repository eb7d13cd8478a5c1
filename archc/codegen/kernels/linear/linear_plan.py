"""What the template of linear maps of few rows may see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearChoice:
    """A weight [outputs, inputs] of a dtype, 1 row or up to 16, and the tile that was fastest.

    biased: whether the maps of that weight have a bias: all, none, or some
    """

    dtype: str
    outputs: int
    inputs: int
    rows: int
    tile: tuple[int, int, int, int]
    remark: str
    biased: tuple[bool, ...]

    @property
    def key(self) -> str:
        return f"torch.{self.dtype}, {self.outputs}, {self.inputs}, {self.rows}"


@dataclass(frozen=True)
class LinearKernel:
    """Linear maps of few rows.  `sources`: where their tiles were measured."""

    name: str
    choices: tuple[LinearChoice, ...]
    sources: tuple[str, ...]
    template: str = "linear"

    def has(self, shape: tuple[int, int] | None) -> bool:
        """Whether there is a tile for a weight of a shape."""
        return any((choice.outputs, choice.inputs) == shape for choice in self.choices)
