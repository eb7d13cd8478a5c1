"""A linear map of its own for each head: a block-diagonal matrix, without its zeros."""

from typing import Any, Literal

from archc.ir.attributes import Width
from archc.ir.inits import ZEROS, Init, Normal
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import Trait, Weight, declare, option
from archc.ir.ops.common import map_dtype
from archc.ir.types import Dim, TensorType, TypeMistake, shape_text


def _heads(type_: TensorType) -> tuple[int, int]:
    """How many heads [..., heads, width] there are, and their width; raises `TypeMistake` for an open one."""
    match type_.shape[-2:]:
        case (int(heads), int(width)):
            return heads, width
    hint = "`split_heads` makes them"
    raise TypeMistake(f"needs heads [..., heads, width], not {type_}", "x", hint=hint)


def _weight_shape(call: Any) -> tuple[Dim, ...]:
    heads, width = _heads(call.x)
    if call.layout == "rows":
        return heads * call.width, width
    return (heads, call.width, width) if call.layout == "out_in" else (heads, width, call.width)


def _type(call: Any) -> TensorType:
    heads, width = _heads(call.x)
    shape = call.weight.shape
    if call.layout == "rows":
        shape = (heads, shape[0] // heads, shape[1])
    out, taken = shape[1:] if call.layout != "in_out" else shape[:0:-1]
    if (shape[0], taken) != (heads, width):
        raise TypeMistake(f"weight {shape_text(call.weight.shape)} does not take {call.x}", "x")
    type_: TensorType = call.x.with_width(out)
    return type_.with_dtype(map_dtype(call))


@declare(
    infer=_type,
    traits=(Trait.PER_TOKEN, Trait.LINEAR, Trait.MATRIX),
    options={
        "width": option(Width),
        "bias": option(bool, False),
        "init": option(Init, Normal()),
        "names": option(Literal["dotted", "joined"], "dotted"),
    },
    weights=(
        Weight("weight", _weight_shape),
        Weight("bias", lambda call: (call.x.shape[-2], call.width), ZEROS, when="bias", operand="offset"),
    ),
    flops=lambda call: 2 * int(call.x.numel()) * int(_type(call).shape[-1]),
    saves=("x",),
)
def head_linear(
    x: Tensor,
    weight: Tensor,
    offset: Tensor | None = None,
    *,
    layout: Literal["out_in", "in_out", "rows"] = "out_in",
    wide: bool = False,
) -> Tensor:
    """x W^T + b with a W of each head's own: x [..., heads, in], W [heads, width, in] -> [..., heads, width].

    `layout` is how each head's W is stored: [width, in], or [in, width]; with `rows` all are one
    matrix [heads * width, in].

    `wide` takes x, W and b to float32 before they are multiplied, and leaves the result there.
    """
    if wide:
        dtype = torch.promote_types(x.dtype, torch.float32)
        x, weight = x.to(dtype), weight.to(dtype)
    if layout == "rows":
        weight = torch.unflatten(weight, 0, (x.shape[-2], -1))
    product = torch.einsum("...hi,hio->...ho" if layout == "in_out" else "...hi,hoi->...ho", x, weight)
    return product if offset is None else product + offset.to(product.dtype)
