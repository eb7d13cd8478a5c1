"""Plans for attention: PyTorch's own over whole sequences, a kernel for one new token behind a cache."""

from __future__ import annotations

from dataclasses import fields

from archc.codegen.attention_plan import AttentionKernel, LargeTile
from archc.codegen.flash_kernel import plan_flash
from archc.codegen.fused import Fused, power_of_two, width_of
from archc.codegen.native_kernel import plan_native_attention
from archc.codegen.step_bias import plan_step_bias
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
    queries = form.queries
    keys = fused.types["k"].shape
    heads, head_dim, kv_heads = map(int, (fused.types[queries[0]].shape[2], keys[3], keys[2]))
    value_dim, joint = width_of(fused.node.types[0]), form.values_in_keys
    mask: Mask = fused.node.attributes["mask"]
    shared = form.keys_are_values
    blocks = _blocks(heads // kv_heads, value_dim) if joint or shared else 1
    group = heads // kv_heads // blocks
    names = [name for name in fused.types if name not in (*queries, *_SPLIT)]
    alone = joint or len(fused.rule.steps) == 1  # nothing but attention, without what makes a bias
    plain = fused.plain if names or not alone or _softcap(fused) is not None else ()
    rows = max(power_of_two(group), _LEAST)
    beside = head_dim - value_dim if joint else head_dim  # columns of keys that are no values
    head_block, value_block = (max(power_of_two(dim), _LEAST) for dim in (beside, value_dim))
    loaded = value_block if shared else head_block + value_block  # columns for each key
    first_head = f"{'block' if blocks > 1 else 'head'} * {group}"
    bias = plan_step_bias(fused, f"{first_head} + query", f"query < {group}" if rows != group else "")
    # One tile is keys and values: 16 of them, for more do not fit in the registers of every chip.
    beside_queries = _LEAST if shared else _tile_beside(rows, loaded) if joint else 128
    large = _large_tile(joint, shared, rows, loaded, beside_queries)
    few = rows * value_block <= (8192 if joint or shared else 4096)
    return AttentionKernel(
        name=fused.name,
        equation=fused.equation,
        layout=fused.layout,
        mask=_mask_arguments(mask),
        oldest=_oldest(mask),
        plain=plain,
        queries=queries,
        extra=tuple((name, f"{name}[:, :, queries, keys]" if name == "bias" else name) for name in names),
        scale=float(fused.node.attributes["scale"]),
        heads=heads,
        kv_heads=kv_heads,
        blocks=blocks,
        head_dim=head_dim,
        value_dim=value_dim,
        rows=rows,
        head_block=head_block,
        value_block=value_block,
        tile=min(_tile(loaded), beside_queries),
        warps=4 if few or (shared and large) else 8,
        softcap=_softcap(fused),
        keeps=fused.keeps,
        steps=(
            steps
            and (fused.keeps or not joint)
            and mask.causal
            and _are_known(names, alone or bias is not None)
        ),
        fixed=steps and not fused.keeps and not mask.causal and alone and not names and not joint,
        flash=plan_flash(fused) if flash and not joint and not shared else None,
        values_in_keys=joint,
        shared=shared,
        bias=bias,
        native=(
            plan_native_attention(fused) if fused.keeps and alone and not (joint or shared or names) else None
        ),
        large=large,
        wide=_wide_tile(loaded, rows) if joint and large and group == _HEADS and blocks % 2 == 0 else None,
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


def _are_known(names: list[str], alone: bool) -> bool:
    """Whether the kernel for one token can do everything that is done to scores."""
    return alone and set(names) <= {"sinks", "table", "bias"}


def _oldest(mask: Mask) -> str:
    """The first position that a query sees, as an expression of its own; "" for all."""
    if isinstance(mask, Sliding):
        return f"position - {int(mask.window) - 1}"
    return f"position // {int(mask.chunk)} * {int(mask.chunk)}" if isinstance(mask, Chunked) else ""


def _softcap(fused: Fused) -> float | None:
    cap: float | None = fused.node.attributes.get("softcap")
    return cap


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
