"""The op that a rotation is registered as, and what its launches are given."""

from __future__ import annotations

from collections.abc import Sequence

from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.fused import Fused
from archc.codegen.kernels.signature import Signature
from archc.codegen.modules.class_plan import Argument

TABLES = ("cos", "sin")
TABLE_TOKENS = "cos.shape[0] * cos.shape[1]"  # what a launch of any rotation is given


def rotation_op(
    fused: Fused,
    inputs: dict[str, str],
    outputs: dict[str, str],
    saved: tuple[str, ...],
    weights: tuple[str, ...],
) -> CustomOp:
    """The op of a rotation: inputs and outputs are names with their dims after [B, T]."""
    anchor, incoming = next(iter(inputs)), [f"d{name}" for name in outputs]
    gradients = tuple(f"d{name}" for name in (*inputs, *weights))
    return CustomOp(
        operands=fused.operands,
        outputs=tuple(outputs),
        fakes=tuple(f"_like({anchor}, *{anchor}.shape[:2], {dims})" for dims in outputs.values()),
        saved=saved,
        incoming=tuple(Argument(name) for name in (*incoming, *saved)),
        gradients=gradients,
        gradient_fakes=(
            *(f"_like({incoming[0]}, *{incoming[0]}.shape[:2], {dims})" for dims in inputs.values()),
            *(f"_like({name})" for name in weights),
        ),
        returned=(
            *(f"d{name}" for name in inputs),
            *("None" for name in TABLES if name in fused.types),
            *(f"d{name}" for name in weights),
        ),
        remembered=(),
        anchor=anchor,
        plain=fused.plain,
    )


def forward_of(
    names: Sequence[str], weights: Sequence[str], outs: Sequence[str], tables: Sequence[str] = TABLES
) -> Signature:
    """How a rotation reads its sources, tables and norms' weights, and writes what comes of them."""
    return Signature(
        (
            *(f"{name}_ptr" for name in (*names, *tables, *weights, *outs)),
            *(f"{name}_stride" for name in names),
            *(["table_tokens"] if tables else []),
        ),
        (
            *(f"{name}_rows" for name in names),
            *contiguous(tables),
            *weights,
            *outs,
            *(f"{name}_rows.stride(0)" for name in names),
            *([TABLE_TOKENS] if tables else []),
        ),
    )


def backward_of(
    names: Sequence[str], weights: Sequence[str], outs: Sequence[str], normed: bool, tables: Sequence[str]
) -> Signature:
    """How the gradient does: with norms it reads the sources again."""
    incoming = [f"d{out}" for out in outs]
    gradients = [f"d{name}" for name in (*names, *weights)]
    again = (*names, *weights) if normed else ()
    rows = (*(f"{name}_rows" for name in names), *weights) if normed else ()
    strides = ("tokens", *(f"{name}_stride" for name in names)) if normed else ()
    row_strides = ("tokens", *(f"{name}_rows.stride(0)" for name in names)) if normed else ()
    return Signature(
        (
            *(f"{name}_ptr" for name in (*incoming, *tables, *again, *gradients)),
            *strides,
            *(["table_tokens"] if tables else []),
        ),
        (
            *incoming,
            *contiguous(tables),
            *rows,
            *gradients,
            *row_strides,
            *([TABLE_TOKENS] if tables else []),
        ),
    )


def contiguous(names: Sequence[str]) -> tuple[str, ...]:
    """Tensors as a launch gives them that are read row by row."""
    return tuple(f"{name}.contiguous()" for name in names)
