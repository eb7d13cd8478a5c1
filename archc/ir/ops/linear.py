"""Ops that bring weights: linear maps, embeddings, free parameters."""

from typing import Any, Literal

from archc.ir.attributes import Width
from archc.ir.inits import ZEROS, Init, Normal, Uniform
from archc.ir.lazy_torch import F, Tensor, torch
from archc.ir.op import OPS, Trait, Weight, declare, option
from archc.ir.ops.common import float_type, known_width, map_dtype
from archc.ir.types import Dim, DType, TensorType, TypeMistake, broadcast, shape_text

# How one tensor of a checkpoint holds the weights of all experts: along a first dim, or one below the other.
STACKING = option(Literal["planes", "rows"], "planes")


def _linear_shape(call: Any) -> tuple[Dim, ...]:
    if not isinstance(call.x.width, int):
        raise TypeMistake(f"needs a known width, not {call.x}", "x")
    shape = (call.width, call.x.width)
    return shape if call.layout == "out_in" else shape[::-1]


def _linear_type(call: Any) -> TensorType:
    out, width = call.weight.shape if call.layout == "out_in" else call.weight.shape[::-1]
    dtype = map_dtype(call)
    if call.x.width != width:
        raise TypeMistake(
            f"weight {shape_text(call.weight.shape)} does not take a width of {call.x.width}", "x"
        )
    type_: TensorType = call.x.with_width(out)
    return type_.with_dtype(dtype)


def _linear_flops(call: Any) -> int:
    return 2 * int(call.x.numel()) * int(_linear_type(call).shape[-1])


@declare(
    infer=_linear_type,
    traits=(Trait.PER_TOKEN, Trait.LINEAR, Trait.MATRIX),
    options={
        "width": option(Width),
        "bias": option(bool, False),
        "init": option(Init, Normal()),
        "names": option(Literal["dotted", "joined"], "dotted"),
        "stacking": STACKING,
    },
    weights=(
        Weight("weight", _linear_shape),
        Weight("bias", lambda call: (call.width,), ZEROS, when="bias", operand="offset"),
    ),
    flops=_linear_flops,
    saves=("x",),
)
def linear(
    x: Tensor,
    weight: Tensor,
    offset: Tensor | None = None,
    *,
    layout: Literal["out_in", "in_out"] = "out_in",
    wide: bool = False,
) -> Tensor:
    """x W^T + b.

    `layout` is how W is stored: [out, in], or [in, out] as GPT-2's Conv1D does.

    `wide` takes x, W and b to float32 before they are multiplied, and leaves the result there.
    """
    if wide:
        wider = torch.promote_types(x.dtype, torch.float32)
        product = x.to(wider) @ (weight if layout == "in_out" else weight.t()).to(wider)
        return product if offset is None else product + offset.to(wider)
    return F.linear(x, weight.t() if layout == "in_out" else weight, offset)


@declare(
    infer=lambda call: call.x.with_width(call.weight.shape[0]).with_dtype(DType.F32),
    traits=(Trait.PER_TOKEN, Trait.LINEAR, Trait.MATRIX),
    flops=lambda call: 2 * int(call.x.numel()) * int(call.weight.shape[0]),
    saves=("x",),
    internal=True,
    module="kernels",
)
def wide_linear(x: Tensor, weight: Tensor, offset: Tensor | None = None) -> Tensor:
    """`linear` with `wide`, for a weight [out, in]: what it reads need not be written down in float32."""
    product: Tensor = linear(x, weight, offset, wide=True)
    return product


def _row_type(call: Any, dtype: DType) -> TensorType:
    """That of rows of a table."""
    if call.index.dtype is not DType.I64:
        raise TypeMistake(f"needs whole numbers to look up, not {call.index}", "index")
    return TensorType((*call.index.shape, call.weight.shape[1]), dtype)


@declare(
    infer=lambda call: _row_type(call, DType.FLOAT),
    traits=(Trait.PER_TOKEN,),
    options={"rows": option(Width), "width": option(Width), "init": option(Init, Normal())},
    weights=(Weight("weight", lambda call: (call.rows, call.width)),),
    reads=lambda call: {"weight": int(call.index.numel()) * int(call.weight.width)},
)
def embedding(index: Tensor, weight: Tensor) -> Tensor:
    """Row `index` of a table."""
    try:
        return F.embedding(index, weight)
    except IndexError:  # which a GPU does not raise
        wrong = int(index[(index < 0) | (index >= len(weight))][0])
        raise IndexError(f"{wrong} is looked up in a table of {len(weight)} rows") from None


@declare(
    infer=lambda call: _row_type(call, DType.I64),
    traits=(Trait.PER_TOKEN,),
    options={
        "rows": option(Width),
        "width": option(Width),
        "below": option(Width),
        "names": option(Literal["dotted", "joined"], "dotted"),
    },
    weights=(
        Weight(
            "weight",
            lambda call: (call.rows, call.width),
            lambda call: Uniform(0.0, float(call.below)),
            whole=True,
        ),
    ),
    reads=lambda call: {"weight": int(call.index.numel()) * int(call.weight.width)},
)
def whole_table(index: Tensor, weight: Tensor) -> Tensor:
    """Row `index` of a table of whole numbers from 0 up to, not including, `below`, which are not trained."""
    return weight[index]


def _parameter_shape(call: Any) -> tuple[Dim, ...]:
    shape: tuple[Dim, ...] = call.shape
    if not shape:
        raise TypeMistake("needs a dim: `[1]` is the shape of a single number")
    return shape


@declare(
    infer=lambda call: call.weight,
    options={
        "shape": option(tuple[Width, ...]),
        "init": option(Init, Normal()),
        "trained": option(bool, True),
        "wide": option(bool, False),
        "stacking": STACKING,
    },
    weights=(Weight("", _parameter_shape, wide="wide", operand="weight"),),
    traits=(Trait.PER_TOKEN, Trait.VIEW),
)
def parameter(weight: Tensor) -> Tensor:
    """A free parameter of a given shape; `wide` keeps it in float32, whatever the model is run in."""
    return weight


def _matmul_type(call: Any) -> TensorType:
    x, y = float_type(call), float_type(call, "y")
    if x.dtype is not y.dtype:
        hint = "`cast_like` takes a tensor to the dtype of another"
        raise TypeMistake(f"needs matrices of one dtype, not {x} and {y}", "x", "y", hint=hint)
    known_width(x)  # what is summed over are no tokens
    text = f"cannot multiply matrices {shape_text(x.shape)} and {shape_text(y.shape)}"
    if min(len(x.shape), len(y.shape)) < 2 or x.shape[-1] != y.shape[-2]:
        raise TypeMistake(text, "x", "y")
    try:
        joined = broadcast(x.with_shape(*x.shape[:-2]), y.with_shape(*y.shape[:-2]))
    except TypeMistake:
        raise TypeMistake(text, "x", "y") from None
    return joined.with_shape(*joined.shape, x.shape[-2], y.width)


@declare(
    infer=_matmul_type,
    traits=(Trait.MATRIX, Trait.PER_TOKEN),
    flops=lambda call: 2 * int(_matmul_type(call).numel()) * int(call.x.width),
    saves=("x", "y"),
)
def matmul(x: Tensor, y: Tensor) -> Tensor:
    """Matrix product over the last two dims; those before broadcast."""
    return torch.matmul(x, y)


LINEAR, EMBEDDING, WIDE_LINEAR = OPS["linear"], OPS["embedding"], OPS["wide_linear"]
