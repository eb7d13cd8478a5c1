"""Plans for attention: PyTorch's own over whole sequences, a kernel for one new token behind a cache."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

from archc.codegen.attention_plan import AttentionKernel, LargeTile
from archc.codegen.flash_kernel import plan_flash
from archc.codegen.fused import Fused, power_of_two, width_of
from archc.codegen.native_kernel import plan_native_attention
from archc.codegen.step_bias import StepBias, plan_step_bias
from archc.ir.attention_form import AttentionForm
from archc.ir.ops.attention import Chunked, Mask, Sliding

_LEAST = 16  # rows and columns of a tensor core's tile
_TILE = 1 << 14  # values of the keys and values that a program holds at a time, 32 KiB in bfloat16
_SPLIT = ("k", "v", "positions", "key_positions")  # besides queries, a piece of them and keys has a part of
_WIDE = 1 << 15  # values of the queries and the keys together, 64 KiB in bfloat16
_LATENT_KEYS = 64  # that a program holds at a time where there is room
_NARROW = 512  # columns of keys that are their own values, so few that registers hold all of a program's
_HEADS = 32  # of queries, that a program has beside wide values


def plan_attention(fused: Fused, steps: bool, flash: bool) -> AttentionKernel:
    """The plan of an attention; whether the target has kernels for `steps`, and `flash` for sequences."""
    form = fused.rule.attention_form
    assert form is not None
    return _Planner(fused, form).kernel(steps, flash)


@dataclass(frozen=True)
class _Planner:
    """What the parts of a plan have in common."""

    fused: Fused
    form: AttentionForm

    @property
    def joint(self) -> bool:
        """Whether values are the first columns of the keys."""
        return self.form.values_in_keys

    @property
    def shared(self) -> bool:
        """Whether keys are their own values."""
        return self.form.keys_are_values

    @property
    def mask(self) -> Mask:
        mask: Mask = self.fused.node.attributes["mask"]
        return mask

    @property
    def softcap(self) -> float | None:
        cap: float | None = self.fused.node.attributes.get("softcap")
        return cap

    @cached_property
    def heads(self) -> int:
        return int(self.fused.types[self.form.queries[0]].shape[2])

    @cached_property
    def kv_heads(self) -> int:
        return int(self.fused.types["k"].shape[2])

    @cached_property
    def head_dim(self) -> int:
        return int(self.fused.types["k"].shape[3])

    @cached_property
    def value_dim(self) -> int:
        return width_of(self.fused.node.types[0])

    @cached_property
    def extra(self) -> list[str]:
        """Operands besides queries, keys, values and positions."""
        return [name for name in self.fused.types if name not in (*self.form.queries, *_SPLIT)]

    @cached_property
    def alone(self) -> bool:
        """Whether the fusion has nothing but attention: it makes no bias."""
        return self.joint or len(self.fused.rule.steps) == 1

    @cached_property
    def blocks(self) -> int:
        """Programs of a key head."""
        return _blocks(self.heads // self.kv_heads, self.value_dim) if self.joint or self.shared else 1

    @cached_property
    def group(self) -> int:
        """Query heads of a program."""
        return self.heads // self.kv_heads // self.blocks

    @cached_property
    def rows(self) -> int:
        return max(power_of_two(self.group), _LEAST)

    @cached_property
    def head_block(self) -> int:
        """Holds the columns of keys that are no values."""
        return max(power_of_two(self.head_dim - self.value_dim if self.joint else self.head_dim), _LEAST)

    @cached_property
    def value_block(self) -> int:
        return max(power_of_two(self.value_dim), _LEAST)

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
        first = f"{'block' if self.blocks > 1 else 'head'} * {self.group}"
        mask = f"query < {self.group}" if self.rows != self.group else ""
        return plan_step_bias(self.fused, f"{first} + query", mask)

    @cached_property
    def large(self) -> LargeTile | None:
        return _large_tile(self.joint, self.shared, self.rows, self.loaded, self.most_keys)

    @cached_property
    def wide(self) -> LargeTile | None:
        halves = self.group == _HEADS and self.blocks % 2 == 0
        return _wide_tile(self.loaded, self.rows) if self.joint and self.large and halves else None

    @cached_property
    def warps(self) -> int:
        few = self.rows * self.value_block <= (8192 if self.joint or self.shared else 4096)
        return 4 if few or (self.shared and self.large) else 8

    @cached_property
    def has_step(self) -> bool:
        """Whether the kernel for one token can do everything that is done to scores."""
        known = set(self.extra) <= {"sinks", "table", "bias"} and (self.alone or self.bias is not None)
        return known and self.mask.causal and (self.fused.keeps or not self.joint)

    @cached_property
    def is_bare(self) -> bool:
        """Whether keys and values are separate, and nothing else is read."""
        return self.alone and not (self.joint or self.shared or self.extra)

    def kernel(self, steps: bool, flash: bool) -> AttentionKernel:
        fused = self.fused
        has_plain = self.extra or not self.alone or self.softcap is not None
        fixed = not fused.keeps and not self.mask.causal and self.alone and not self.extra and not self.joint
        return AttentionKernel(
            name=fused.name,
            equation=fused.equation,
            layout=fused.layout,
            mask=_mask_arguments(self.mask),
            oldest=_oldest(self.mask),
            plain=fused.plain if has_plain else (),
            queries=self.form.queries,
            extra=tuple((n, f"{n}[:, :, queries, keys]" if n == "bias" else n) for n in self.extra),
            scale=float(fused.node.attributes["scale"]),
            heads=self.heads,
            kv_heads=self.kv_heads,
            blocks=self.blocks,
            head_dim=self.head_dim,
            value_dim=self.value_dim,
            rows=self.rows,
            head_block=self.head_block,
            value_block=self.value_block,
            tile=min(_tile(self.loaded), self.most_keys),
            warps=self.warps,
            softcap=self.softcap,
            keeps=fused.keeps,
            steps=steps and self.has_step,
            fixed=steps and fixed,
            flash=plan_flash(fused) if flash and not self.joint and not self.shared else None,
            values_in_keys=self.joint,
            shared=self.shared,
            bias=self.bias,
            native=plan_native_attention(fused) if fused.keeps and self.is_bare else None,
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


def _blocks(group: int, width: int) -> int:
    """Among how many programs the query heads of a key head are divided evenly."""
    most = min(_HEADS, max(_HEADS * 512 // width, _LEAST))
    return next(blocks for blocks in range(1, group + 1) if group % blocks == 0 and group // blocks <= most)


def _mask_arguments(mask: Mask) -> tuple[str, ...]:
    """A mask as the runtime takes it."""
    sizes = (f"{field.name}={int(getattr(mask, field.name))}" for field in fields(mask))
    return tuple(sizes) if mask.causal else (*sizes, "causal=False")
