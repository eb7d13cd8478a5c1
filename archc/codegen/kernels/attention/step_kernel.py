"""When attention of one token has a kernel of its own, and how its programs share the work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from archc.codegen.kernels.attention.attention import (
    Attention,
    further_operands,
    heads_choose,
    is_bare,
    makes_bias,
)
from archc.codegen.kernels.attention.step_bias import StepBias, plan_step_bias
from archc.codegen.kernels.attention.step_plan import LargeTile, StepKernel
from archc.codegen.kernels.attention.step_signature import StepSignature
from archc.codegen.kernels.fused import Fused, power_of_two
from archc.ir.ops.attention import Chunked, Mask, Sliding

_LEAST = 16  # rows and columns of a tensor core's tile
_TILE = 1 << 14  # values of the keys and values that a program holds at a time, 32 KiB in bfloat16
_WIDE = 1 << 15  # values of the queries and the keys together, 64 KiB in bfloat16
_LATENT_KEYS = 64  # that a program holds at a time where there is room
_NARROW = 512  # columns of keys that are their own values, so few that registers hold all of a program's
_WIDEST = 1024  # columns of a key and its value together, of which shared memory holds a tile on every chip
_HEADS = 32  # of queries, that a program has beside wide values


def plan_step(fused: Fused, attention: Attention) -> StepKernel | None:
    """The kernel for one token; None where it cannot do all that is done to scores, or has no room."""
    planner = _Planner(fused, attention)
    return planner.kernel() if planner.fits and (planner.fixed or planner.grows) else None


@dataclass(frozen=True)
class _Planner:
    """What the parts of a plan have in common."""

    fused: Fused
    attention: Attention

    @property
    def joint(self) -> bool:
        """Whether values are the first columns of the keys."""
        return self.attention.form.values_in_keys

    @property
    def shared(self) -> bool:
        """Whether keys are their own values."""
        return self.attention.form.keys_are_values

    @property
    def mask(self) -> Mask:
        mask: Mask = self.fused.node.attributes["mask"]
        return mask

    @property
    def fits(self) -> bool:
        return self.attention.form.one_slot or self.loaded <= _WIDEST

    @property
    def fixed(self) -> bool:
        """Whether there is a kernel for the keys of another sequence."""
        return not self.mask.causal and not self.fused.keeps and is_bare(self.fused)

    @property
    def grows(self) -> bool:
        """Whether there is a kernel for a sequence that each token joins."""
        further, biased = set(further_operands(self.fused)), makes_bias(self.fused)
        if heads_choose(self.fused):
            return False
        if self.joint:
            return self.mask.causal and self.fused.keeps and further <= {"among"} and not biased
        if "among" in further:
            return self.mask.causal and further <= {"among", "sinks"} and not biased
        known = further <= {"sinks", "table", "bias"} and (self.bias is not None or not biased)
        return self.mask.causal and known

    @property
    def chosen(self) -> int:
        return self.fused.width("among") if "among" in self.fused.types else 0

    @cached_property
    def blocks(self) -> int:
        """Programs of a key head."""
        one_slot = self.attention.form.one_slot
        most = _most_heads(self.attention.value_dim, self.chosen > 0)
        return _blocks(self.attention.group, most) if one_slot else 1

    @cached_property
    def heads(self) -> int:
        """Query heads of a program."""
        return self.attention.group // self.blocks

    @cached_property
    def rows(self) -> int:
        return max(power_of_two(self.heads), _LEAST)

    @cached_property
    def head_block(self) -> int:
        """Holds the columns of keys that are no values."""
        values = self.attention.value_dim if self.joint else 0
        return max(power_of_two(self.attention.head_dim - values), _LEAST)

    @cached_property
    def value_block(self) -> int:
        return max(power_of_two(self.attention.value_dim), _LEAST)

    @cached_property
    def loaded(self) -> int:
        """Columns that are loaded for each key."""
        return self.value_block if self.shared else self.head_block + self.value_block

    @cached_property
    def most_keys(self) -> int:
        """Keys that a program can hold at a time beside its queries."""
        if self.shared:  # one tile is keys and values: more than 16 do not fit in every chip's registers
            return _LEAST
        return _tile_beside(self.rows, self.loaded) if self.joint else 128

    @cached_property
    def bias(self) -> StepBias | None:
        divided = self.attention.kv_heads * self.blocks > 1
        mask = f"query < {self.heads}" if self.rows != self.heads else ""
        return plan_step_bias(self.fused, "query_head" if divided else "query", mask)

    @cached_property
    def large(self) -> LargeTile | None:
        if self.fixed:
            return None
        return _large_tile(self.joint, self.shared, self.rows, self.loaded, self.most_keys)

    @cached_property
    def wide(self) -> LargeTile | None:
        halves = self.heads == _HEADS and self.blocks % 2 == 0
        return _wide_tile(self.loaded, self.rows) if self.joint and self.large and halves else None

    @cached_property
    def warps(self) -> int:
        one_slot = self.attention.form.one_slot
        few = self.rows * self.value_block <= (8192 if one_slot else 4096)
        return 4 if few or (self.shared and self.large) else 8

    @property
    def signature(self) -> StepSignature:
        further, oldest = further_operands(self.fused), bool(_oldest(self.mask))
        return StepSignature(self.attention, self.fused.keeps, self.fixed, oldest, further, self.bias)

    def kernel(self) -> StepKernel:
        return StepKernel(
            **vars(self.attention),
            keeps=self.fused.keeps,
            fixed=self.fixed,
            oldest=_oldest(self.mask),
            chosen=self.chosen,
            signature=self.signature,
            bias=self.bias,
            blocks=self.blocks,
            rows=self.rows,
            head_block=self.head_block,
            value_block=self.value_block,
            tile=min(_tile(self.loaded), self.most_keys),
            warps=self.warps,
            large=self.large,
            wide=self.wide,
        )


def _large_tile(joint: bool, shared: bool, rows: int, columns: int, keys: int) -> LargeTile | None:
    """A tile of keys of so many columns, beside the queries of a program.

    For a latent it has 64 keys: on an H200, with 128 heads, 128 sequences and 4,096 keys, that reached 136
    TFLOP/s, and 16 keys reached 57.  Keys that are their own values get no larger tile, but more warps and a
    prefetched tile; on other chips that tile would take registers, of which the queries leave few.
    """
    if joint:
        return LargeTile(columns, rows, _LATENT_KEYS) if keys < _LATENT_KEYS else None
    return LargeTile(columns, rows, keys) if shared and columns > _NARROW else None


def _wide_tile(columns: int, rows: int) -> LargeTile:
    """A tile for a latent with twice the query heads and half the keys: 208 TFLOP/s in the same setting.

    With as many keys it reached 241, but Triton 3.9 then runs out of registers.
    """
    return LargeTile(columns, 2 * rows, _LATENT_KEYS // 2, stages=3, held=3)


def _oldest(mask: Mask) -> str:
    """The first position that a query sees, as an expression of its own; "" for all."""
    if isinstance(mask, Sliding):
        return f"position - {int(mask.window) - 1}"
    return f"position // {int(mask.chunk)} * {int(mask.chunk)}" if isinstance(mask, Chunked) else ""


def _tile(width: int) -> int:
    """Keys that a program holds at a time: a power of two."""
    return max(power_of_two(_TILE // width + 1) // 2, 2 * _LEAST)


def _tile_beside(rows: int, width: int) -> int:
    """The same where the queries of a program, as wide as the keys, take room beside them."""
    return min(max(power_of_two(_WIDE // width - rows + 1) // 2, _LEAST), 128)


def _most_heads(width: int, chosen: bool) -> int:
    """Query heads of a program beside values of a width; where chosen keys lie takes registers, too."""
    return _LEAST if chosen else min(_HEADS, max(_HEADS * 512 // width, _LEAST))


def _blocks(group: int, most: int) -> int:
    """Among how many programs the query heads of a key head are divided evenly, with `most` in each."""
    return next(blocks for blocks in range(1, group + 1) if group % blocks == 0 and group // blocks <= most)
