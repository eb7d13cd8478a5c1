"""What the template of chosen keys may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.code import Line
from archc.codegen.kernels.fused import power_of_two
from archc.codegen.kernels.masks import joined, load_where, store_where

_TILE = 64  # keys that a program scores at a time
_LEAST = 16  # rows and columns of a product on tensor cores


@dataclass(frozen=True)
class KeyChoiceKernel:
    """The keys that score best for one new token of each sequence; PyTorch chooses those of many tokens.

    plain:  the statements in PyTorch
    heads:  of queries; width: of each, and of keys
    count:  keys that are chosen
    causal: whether later keys than the token's own are out of question
    """

    name: str
    equation: tuple[str, ...]
    layout: str
    plain: tuple[Line, ...]
    heads: int
    width: int
    count: int
    causal: bool
    weights_are_wide: bool
    tile: int = _TILE
    template: str = "key_choice"

    @property
    def head_block(self) -> int:
        return max(power_of_two(self.heads), _LEAST)

    @property
    def width_block(self) -> int:
        return max(power_of_two(self.width), _LEAST)

    @property
    def count_block(self) -> int:
        return power_of_two(self.count)

    @property
    def warps(self) -> int:
        """Of the program that has the places of all chosen keys."""
        return min(max(self.count_block // 256, 1), 8)

    @property
    def query_load(self) -> str:
        heads = self.head_mask.replace("head", "head[None, :]")
        return load_where(joined(heads, self.column_mask))

    @property
    def weight_load(self) -> str:
        return load_where(self.head_mask)

    @property
    def key_mask(self) -> str:
        return joined("key[:, None] < keys", self.column_mask)

    @property
    def count_store(self) -> str:
        return store_where(f"column < {self.count}" if self.count_block != self.count else "")

    @property
    def column_mask(self) -> str:
        """Which values of a head there are, or "" for all."""
        return f"column < {self.width}" if self.width_block != self.width else ""

    @property
    def head_mask(self) -> str:
        """Which heads there are, or "" for all."""
        return f"head < {self.heads}" if self.head_block != self.heads else ""
