"""The plan of attention for one new token of each sequence (a step): what its templates may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.attention.attention import Attention
from archc.codegen.kernels.attention.step_bias import StepBias
from archc.codegen.kernels.attention.step_signature import StepSignature
from archc.codegen.kernels.fused import power_of_two
from archc.codegen.kernels.masks import load_where, outer, store_where


@dataclass(frozen=True)
class LargeTile:
    """A tile of keys in half precision, for chips with `room` for it in shared memory."""

    columns: int  # of a key, and of a query
    rows: int
    keys: int
    stages: int = 2
    held: int = 1  # tiles of keys in shared memory at once
    warps: int = 8

    @property
    def room(self) -> int:
        """Bytes of the queries, of tiles of keys, and of scores in float32."""
        return 2 * (self.rows + self.held * self.keys) * self.columns + 4 * self.rows * self.keys


@dataclass(frozen=True)
class StepKernel(Attention):
    """Attention of one token, by programs that each take a share of the keys.

    keeps:   whether it adds the new token to the cache itself; if not, the cache already has it
    fixed:   whether the keys are those of another sequence, which does not grow
    oldest:  the first position that a query at `position` sees, as an expression; "" for all
    chosen:  how many keys a query has chosen, of which it sees no others; 0 where it has not
    signature: what its op and its kernel are given
    bias:    what is added to scores
    blocks:  among how many programs the query heads of a key head are divided
    rows:    rows of a program, of which each query head takes one
    head_block:  columns that hold a key; where values are its first columns, those that are none
    value_block: columns that hold a value
    tile:    keys at a time in half precision
    large:   the tile on a chip with more shared memory, where values are columns of the keys
    wide:    a tile with twice the query heads, for unpadded sequences that fill the chip; with padding its
             registers would not suffice
    """

    keeps: bool
    fixed: bool
    oldest: str
    chosen: int
    signature: StepSignature
    bias: StepBias | None
    blocks: int
    rows: int
    head_block: int
    value_block: int
    tile: int
    warps: int
    large: LargeTile | None
    wide: LargeTile | None

    @property
    def template(self) -> str:
        if self.fixed:
            return "fixed_step"
        return "latent_step" if self.form.values_in_keys else "attention_step"

    @property
    def shared(self) -> bool:
        """Whether keys are their own values."""
        return self.form.keys_are_values

    @property
    def sinks(self) -> bool:
        return "sinks" in self.signature.further

    @property
    def tile_of_dtype(self) -> str:
        """Half as many keys in float32, but no fewer than a tensor core's tile has."""
        return _of_dtype(self.tile, max(self.tile // 2, 16))

    @property
    def warps_of_dtype(self) -> str:
        """Values of float32 take twice the registers, so there are twice the threads to hold them."""
        return _of_dtype(self.warps, self.warps if self.warps > 4 else 2 * self.warps)

    @property
    def asks_dtype(self) -> bool:
        """Whether a launch has to know if values take half the room of float32."""
        asks = "half" in self.tile_of_dtype + self.warps_of_dtype
        return asks or bool(self.form.values_in_keys and self.large)

    @property
    def programs(self) -> int:
        """Programs of one sequence, for each share of the keys."""
        return self.kv_heads * self.blocks

    @property
    def program_heads(self) -> int:
        """Query heads of a program: all those of a key head, but for `blocks`."""
        return self.heads // self.programs

    @property
    def sees(self) -> str:
        """What its queries see, in words."""
        return f"the {self.chosen} keys that it has chosen" if self.chosen else "all tokens so far"

    @property
    def own(self) -> str:
        """The new token's place among the keys that are shared out: which program adds it to the cache."""
        return "own" if self.chosen else "last"

    @property
    def choices_block(self) -> int:
        """A power of two that holds all choices."""
        return power_of_two(self.chosen)

    @property
    def choice_mask(self) -> str:
        return f"choice < {self.chosen}" if self.choices_block != self.chosen else ""

    @property
    def shared_keys(self) -> str:
        """Among how many keys programs are shared out, at most."""
        return str(self.chosen) if self.chosen else self.signature.room

    @property
    def least_shares(self) -> int:
        """Programs that share the keys at least: with fewer, sums of wide values spill on some chips."""
        return 4 if self.shared and self.value_block > 512 else 1

    # As the kernel has it: where there is a choice of a program's heads, HEADS tells of them.

    @property
    def is_divided(self) -> bool:
        """Whether several programs share a sequence's heads."""
        return self.programs > 1

    @property
    def pairs(self) -> str:
        """How many programs there are for each share of the keys."""
        return f"batch * {self.programs}" if self.is_divided else "batch"

    @property
    def pair(self) -> str:
        """What counts them."""
        return "pair" if self.is_divided else "sequence"

    @property
    def program(self) -> str:
        """What counts those of one sequence."""
        return "block" if self.blocks > 1 else "head"

    @property
    def query_head(self) -> str:
        """A program's query heads among all."""
        return "query_head" if self.is_divided else "query"

    @property
    def about_heads(self) -> str:
        """Which query heads a program has, in words."""
        if self.blocks > 1 or self.wide:
            return f"{self._each} of the query heads"
        return "the query head" if self.program_heads == 1 else f"the {self.program_heads} query heads"

    @property
    def first_head(self) -> str:
        """The first of them, among those of a sequence."""
        return self._by_heads(self.program)

    @property
    def first_row(self) -> str:
        """The same among those of all sequences."""
        return self._by_heads(self.pair)

    @property
    def _each(self) -> str:
        return "HEADS" if self.wide else str(self.program_heads)

    def _by_heads(self, program: str) -> str:
        return program if self._each == "1" else f"{program} * {self._each}"

    @property
    def row_count(self) -> str:
        return "HEADS" if self.wide else str(self.rows)

    @property
    def about_rows(self) -> str:
        """A comment on rows of a program that hold no query."""
        if self.wide or self.rows == self.program_heads:
            return ""
        hold = "row holds a query" if self.program_heads == 1 else "rows hold queries"
        why = "tensor cores take no fewer" if self.rows == 16 else "a power of two"
        return f"  # {self.program_heads} {hold}, of {self.rows}: {why}"

    @property
    def blocks_of_head(self) -> str:
        return f"({self.group} // HEADS)" if self.wide else str(self.blocks)

    @property
    def programs_of_sequence(self) -> str:
        return f"({self.heads} // HEADS)" if self.wide else str(self.programs)

    def slots(self, token: str) -> str:
        """Where a key head's token lies in the cache, in keys."""
        return f"({token}) * {self.kv_heads} + head" if self.kv_heads > 1 else token

    @property
    def rest(self) -> int:
        """Columns of the keys after those that are their values."""
        return self.head_dim - self.value_dim

    @property
    def rest_mask(self) -> str:
        return f"rest < {self.head_dim}" if self.head_block != self.rest else ""

    @property
    def head_mask(self) -> str:
        return f"column < {self.head_dim}" if self.head_block != self.head_dim else ""

    @property
    def value_mask(self) -> str:
        return f"value_column < {self.value_dim}" if self.value_block != self.value_dim else ""

    @property
    def query_mask(self) -> str:
        return f"query < {self.program_heads}" if self.rows != self.program_heads else ""

    def where(self, *masks: str) -> str:
        """The arguments of a store with some masks, in the order of its dims; an empty one is no mask."""
        return store_where(outer(masks))

    def read(self, *masks: str) -> str:
        """The same of a load."""
        return load_where(outer(masks))


def _of_dtype(half: int, single: int) -> str:
    """A number for half precision and one for float32, as a launch chooses between them."""
    return str(half) if half == single else f"{half} if half else {single}"
