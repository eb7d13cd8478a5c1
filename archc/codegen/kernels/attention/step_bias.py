"""The bias by distance that the kernel for one token's attention adds to its scores."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.attention.bias_vector import BiasVector, farthest, linear_vector, relative_vector
from archc.codegen.kernels.fused import Fused, width_of
from archc.codegen.kernels.masks import load_where, outer


@dataclass(frozen=True)
class StepBias:
    """The statements for a bias.

    vector:     the constant tensor that they read; None for a bias that is given
    strides:    further parameters, and how a launch computes them
    head_lines: for the heads of a program
    key_lines:  for a tile of keys at `key_position`, before it is loaded: then registers are few
    """

    vector: BiasVector | None
    strides: tuple[tuple[str, str], ...]
    head_lines: tuple[str, ...]
    key_lines: tuple[str, ...]


def plan_step_bias(fused: Fused, head: str, mask: str) -> StepBias | None:
    """The bias that a rule makes or is given, None where there is none.

    head: the heads of a program's queries; mask: which of its rows are queries
    """
    made = [step.op.name for step in fused.rule.steps if step.op.name in _PLANS]
    if made:
        return _PLANS[made[0]](fused, head, mask)
    return _given(fused, head, mask) if "bias" in fused.types else None


def _given(fused: Fused, head: str, mask: str) -> StepBias:
    """One row of a bias [1 or B, 1 or heads, 1, 1 or S], by the places of keys."""
    _, heads, _, keys = fused.types["bias"].shape
    return StepBias(
        vector=None,
        strides=(
            ("bias_batch_stride", "_batch_stride(bias)"),
            ("bias_head_stride", "0" if heads == 1 else "bias.stride(1)"),
            ("bias_key_stride", "0" if keys == 1 else "bias.stride(3)"),
        ),
        head_lines=(
            "bias_row = bias_ptr + sequence * bias_batch_stride",
            f"bias_head = {head}.to(tl.int32) * bias_head_stride",
        ),
        key_lines=(
            "bias_places = bias_head[:, None] + key[None, :] * bias_key_stride",
            f"bias = tl.load(bias_row + bias_places{load_where(outer((mask, 'seen')))}).to(tl.float32)",
        ),
    )


def _relative(fused: Fused, head: str, mask: str) -> StepBias:
    """A row of the table for each key."""
    heads, far = width_of(fused.types["table"]), farthest(fused)
    where = load_where(outer((mask, "")))
    return StepBias(
        vector=relative_vector(fused),
        strides=(),
        head_lines=(f"table_head = {head}.to(tl.int32)",),
        key_lines=(
            f"back = tl.minimum(tl.maximum(position - key_position, 0), {far})",
            f"row = tl.load(buckets_ptr + {far} + back)[None, :] * {heads}",
            f"bias = tl.load(table_ptr + row + table_head[:, None]{where}).to(tl.float32)",
        ),
    )


def _linear(fused: Fused, head: str, mask: str) -> StepBias:
    """A slope for each head, times how far on a key is."""
    return StepBias(
        vector=linear_vector(fused),
        strides=(),
        head_lines=(f"slope = tl.load(slopes_ptr + {head}{load_where(mask)})",),
        key_lines=("bias = slope[:, None] * (key_position - position).to(tl.float32)[None, :]",),
    )


_PLANS = {"relative_bias": _relative, "alibi_bias": _linear}
