"""What several families of ops share: traits, checks of an operand, the cost of work on each element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archc.ir.op import Trait
from archc.ir.types import DType, TensorType, TypeMistake

# What may be computed number by number.
ELEMENTWISE = (Trait.ELEMENTWISE, Trait.PER_TOKEN)


def float_type(call: Any, operand: str = "x") -> TensorType:
    """The type of an operand; raises `TypeMistake` unless it is floating."""
    type_: TensorType = getattr(call, operand)
    if not type_.dtype.is_floating:
        hint = "`upcast` makes whole numbers float32"
        raise TypeMistake(f"needs a floating-point tensor, not {type_}", operand, hint=hint)
    return type_


def row_type(call: Any) -> TensorType:
    """The type of floating-point rows that an op works along."""
    type_ = float_type(call)
    demand_rows(type_)
    return type_


def demand_rows(type_: TensorType) -> None:
    """Raise `TypeMistake` where an op would work along tokens, of which each has one value."""
    if len(type_.shape) == 2 and isinstance(type_.width, str):
        hint = (
            "`unsqueeze` makes it a row; tokens look at others in `attention`, and `token_mean` is over them"
        )
        raise TypeMistake(f"needs a row of values for each token, not one in {type_}", "x", hint=hint)


def known_width(type_: TensorType, operand: str = "x") -> int:
    """The size of a type's last dim; raises `TypeMistake` where only a running model knows it."""
    if not type_.shape or not isinstance(type_.width, int):
        raise TypeMistake(f"needs a known width, not {type_}", operand)
    return type_.width


def per_element(cost: int) -> Callable[[Any], int]:
    """So many FLOPs for each element of operand x."""
    return lambda call: cost * int(call.x.numel())


def map_dtype(call: Any) -> DType:
    """The dtype of what a linear map makes of x; raises `TypeMistake` where it takes x only as float32."""
    if call.wide and call.x.dtype.is_floating:
        return DType.F32
    if call.x.dtype is not DType.FLOAT:
        hint = "`wide = true` multiplies in float32; `cast_like` takes a tensor back to the dtype of another"
        if not call.x.dtype.is_floating:
            hint = "`embedding` looks whole numbers up; an input of other numbers says `float[...]`"
        raise TypeMistake(f"needs a tensor of the model's dtype, not {call.x}", "x", hint=hint)
    return DType.FLOAT


def demand_positions(type_: TensorType, tokens: TensorType) -> None:
    """Raise `TypeMistake` unless `positions` holds a whole number for each token of [B, T, ...]."""
    if type_.dtype is not DType.I64 or len(type_.shape) != 2 or type_.shape[1] != tokens.shape[1]:
        wanted = f"a whole number for each token of {tokens}"
        hint = "`squeeze` leaves out a last dim of length 1" if type_.shape[2:] == (1,) else ""
        raise TypeMistake(f"needs {wanted}, not {type_}", "positions", hint=hint)
