"""Plans for attention: PyTorch's own over whole sequences, a kernel for one new token behind a cache."""

from __future__ import annotations

from dataclasses import fields

from archc.codegen.flash_kernel import plan_flash
from archc.codegen.fused import Fused, power_of_two
from archc.codegen.kernel_plan import AttentionKernel
from archc.ir.ops.attention import Causal, Mask, Sliding

_LEAST = 16  # rows and columns of a tensor core's tile
_TILE = 1 << 14  # values of the keys and values that a program holds at a time, 32 KiB in bfloat16
_SPLIT = ("q", "k", "v", "positions", "key_positions")  # a piece of queries and keys has a part of them
_LANE = 64  # of a thread's registers, for what it merges


def plan_attention(fused: Fused, steps: bool, flash: bool) -> AttentionKernel:
    """Attention of a model; whether the target has kernels for single tokens, and for whole sequences."""
    queries, keys, values = (fused.types[name].shape for name in ("q", "k", "v"))
    heads, head_dim, kv_heads, value_dim = map(int, (queries[2], queries[3], keys[2], values[3]))
    mask: Mask = fused.node.attributes["mask"]
    group = heads // kv_heads
    names = [name for name in fused.types if name not in _SPLIT]
    alone = len(fused.rule.steps) == 1  # nothing but attention, without what makes a bias
    plain = fused.plain if names or not alone or _softcap(fused) is not None else ()
    rows = max(power_of_two(group), _LEAST)
    head_block, value_block = (max(power_of_two(dim), _LEAST) for dim in (head_dim, value_dim))
    warps = 4 if rows * value_block <= 4096 else 8
    merged = _LANE * 32 * warps // (power_of_two(group) * value_block)
    return AttentionKernel(
        name=fused.name,
        equation=fused.equation,
        layout=fused.layout,
        mask=", ".join(_mask_arguments(mask)),
        window=int(mask.window) if isinstance(mask, Sliding) else 0,
        plain=plain,
        extra=tuple((name, f"{name}[:, :, queries, keys]" if name == "bias" else name) for name in names),
        scale=float(fused.node.attributes["scale"]),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        rows=rows,
        head_block=head_block,
        value_block=value_block,
        tile=min(max(power_of_two(_TILE // (head_block + value_block) + 1) // 2, 2 * _LEAST), 128),
        merged=max(merged, 1),
        warps=warps,
        softcap=_softcap(fused),
        keeps=fused.keeps,
        steps=steps and alone and set(names) <= {"sinks"} and isinstance(mask, Causal | Sliding),
        flash=plan_flash(fused) if flash else None,
    )


def _softcap(fused: Fused) -> float | None:
    cap: float | None = fused.node.attributes["softcap"]
    return cap


def _mask_arguments(mask: Mask) -> list[str]:
    """A mask as the runtime takes it."""
    sizes = [f"{field.name}={int(getattr(mask, field.name))}" for field in fields(mask)]
    return sizes if mask.causal else [*sizes, "causal=False"]
