"""The tiles in which kernels multiply chunks of a recurrence's tokens."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.fused import power_of_two

_LEAST_SIDE = 16  # of a tile in Triton's products
_FEWEST = 8  # keys or values of a state that fill half of such a tile


@dataclass(frozen=True)
class StateSlice:
    """Rows of a state from `first` on, in a variable of this name; `masked` where the state has fewer."""

    name: str
    first: int
    masked: bool


@dataclass(frozen=True)
class ChunkTiles:
    """Tiles for a head's state [keys, values], as large as registers of all chips can hold.

    solves: whether what a token changes follows from what earlier ones of its chunk do, as by the delta rule
    by_row: whether each row of the state has a decay of its own, so that no product takes pairs of tokens
    """

    keys: int
    values: int
    solves: bool
    by_row: bool

    @property
    def tokens(self) -> int:
        """Tokens of a chunk: fewer where pairs of them take most registers, or most of the time by far."""
        return 32 if self.solves or self.by_row or self.keys <= _LEAST_SIDE else 64

    @property
    def key_tile(self) -> int:
        """Rows of a state that one product takes."""
        return min(_side(self.keys), self.tokens)

    @property
    def slices(self) -> list[StateSlice]:
        """The rows of a state by the products that take them."""
        firsts = range(0, self.keys, self.key_tile)
        return [
            StateSlice(f"s_{n}" if len(firsts) > 1 else "s", first, first + self.key_tile > self.keys)
            for n, first in enumerate(firsts)
        ]

    @property
    def state_columns(self) -> int:
        """Columns of a state that a program takes from chunk to chunk; heads alone are few programs."""
        return _LEAST_SIDE

    @property
    def state_programs(self) -> int:
        """How many programs share a state."""
        return -(-self.values // self.state_columns)

    @property
    def column_tiles(self) -> tuple[int, int]:
        """How many columns of a chunk's results a program has: of 16 bits, and of 32."""
        return min(_side(self.values), 64), min(_side(self.values), 32)

    @property
    def result_keys(self) -> tuple[int, int]:
        """Rows of a state that a product of a chunk's results takes: with keys of 16 bits, and of 32."""
        return self.key_tile, min(self.key_tile, 32)

    @property
    def gradient_keys(self) -> tuple[int, int]:
        """Rows of a state that a product of gradients takes, for which registers are fewer."""
        return min(self.key_tile, 32), _LEAST_SIDE

    @property
    def gradient_columns(self) -> tuple[int, int]:
        """How many columns of gradients a program has: of 16 bits, and of 32; few where each takes much."""
        return _LEAST_SIDE if self.solves else min(_side(self.values), 32), _LEAST_SIDE

    @staticmethod
    def by_width(sizes: tuple[int, int], name: str) -> str:
        """A size for elements of 16 bits, or of 32, as the tensor of this name has."""
        small, large = sizes
        return str(small) if small == large else f"{large} if {name}.dtype == torch.float32 else {small}"


def fits_tiles(keys: int, values: int) -> bool:
    """Whether a state is large enough for products of tiles to be worth it."""
    return min(keys, values) >= _FEWEST


def _side(width: int) -> int:
    return max(power_of_two(width), _LEAST_SIDE)
