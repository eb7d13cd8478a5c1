"""The op that a rotation is registered as, and what its launches are given."""

from __future__ import annotations

from collections.abc import Sequence

from archc.codegen.code import Argument
from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.fused import Fused
from archc.codegen.kernels.signature import Signature, as_named, contiguous, in_rows, row_strides

TABLES = ("cos", "sin")
TABLE_TOKENS = {"table_tokens": "cos.shape[0] * cos.shape[1]"}  # what a launch of any rotation is given


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
    given = in_rows(names) | contiguous(tables) | as_named((*weights, *outs))
    return Signature.of(given, row_strides(names) | (TABLE_TOKENS if tables else {}))


def backward_of(
    names: Sequence[str], weights: Sequence[str], outs: Sequence[str], normed: bool, tables: Sequence[str]
) -> Signature:
    """How the gradient does: with norms it reads the sources again."""
    incoming = [f"d{out}" for out in outs]
    gradients = [f"d{name}" for name in (*names, *weights)]
    again = in_rows(names) | as_named(weights) if normed else {}
    strides = {"tokens": "tokens"} | row_strides(names) if normed else {}
    given = as_named(incoming) | contiguous(tables) | again | as_named(gradients)
    return Signature.of(given, strides | (TABLE_TOKENS if tables else {}))
