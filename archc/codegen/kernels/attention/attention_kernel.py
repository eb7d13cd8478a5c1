"""Plans for attention: PyTorch's own, and kernels where they are faster."""

from __future__ import annotations

from dataclasses import fields

from archc.codegen.code import Line
from archc.codegen.kernels.attention.attention import (
    Attention,
    attention_of,
    further_operands,
    heads_choose,
    is_bare,
    makes_bias,
)
from archc.codegen.kernels.attention.attention_plan import AttentionKernel
from archc.codegen.kernels.attention.flash_kernel import plan_flash
from archc.codegen.kernels.attention.step_kernel import plan_step
from archc.codegen.kernels.fused import Fused
from archc.codegen.native.native_kernel import plan_native_attention
from archc.ir.ops.attention import Mask
from archc.target import Target

# How a piece, of some queries and keys, reads operands that are of queries.
_PIECES = {
    "among": "among[:, queries]",
    "values": "values[:, queries]",
}


def plan_attention(fused: Fused, target: Target) -> AttentionKernel:
    """The plan of an attention, with the kernels that the target has: "steps" and "flash"."""
    attention, further = attention_of(fused), further_operands(fused)
    beyond_pytorch = further or makes_bias(fused) or attention.softcap is not None
    return AttentionKernel(
        **vars(attention),
        equation=fused.equation,
        layout=fused.layout,
        mask=_mask_arguments(fused.node.attributes["mask"]),
        plain=_after_operands(fused, attention) if beyond_pytorch else (),
        extra=tuple((name, _piece(fused, name)) for name in further),
        rows=tuple(name for name in further if _is_of_token(fused, name)),
        chooses="among" in further and not heads_choose(fused),
        keeps=fused.keeps,
        flash=plan_flash(fused, attention) if "flash" in target.families else None,
        step=plan_step(fused, attention) if "steps" in target.families else None,
        native=plan_native_attention(fused) if fused.keeps and is_bare(fused) else None,
    )


def _after_operands(fused: Fused, attention: Attention) -> tuple[Line, ...]:
    """The statements in PyTorch after those that join queries and take values from keys."""
    return fused.plain[len(fused.rule.steps) - 1 :] if attention.form.values_in_keys else fused.plain


def _piece(fused: Fused, name: str) -> str:
    """How a piece reads an operand: what is of each query only for its own."""
    if name == "bias":
        *_, queries, keys = fused.types[name].shape  # where one of them is 1, it stands for all
        return f"bias[:, :, {':' if queries == 1 else 'queries'}, {':' if keys == 1 else 'keys'}]"
    return _PIECES.get(name, name) if len(fused.types[name].shape) > 2 else name


def _is_of_token(fused: Fused, name: str) -> bool:
    """Whether an operand has a row for each token, be it as a query or as a key."""
    shape = fused.types[name].shape
    return len(shape) > 1 and isinstance(shape[1], str)


def _mask_arguments(mask: Mask) -> tuple[str, ...]:
    """A mask as the runtime takes it."""
    sizes = (f"{field.name}={int(getattr(mask, field.name))}" for field in fields(mask))
    return tuple(sizes) if mask.causal else (*sizes, "causal=False")
