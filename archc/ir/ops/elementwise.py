"""Elementwise arithmetic; `functions` are beside it.

Each states its Triton expression on float32 registers and its derivative, from which the fused pointwise
kernels and their backward passes are written.
"""

import math
from typing import Any

from archc.ir.attributes import Width
from archc.ir.expr import Expr
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import Trait, declare
from archc.ir.ops.common import ELEMENTWISE, float_type, per_element
from archc.ir.types import DType, TensorType, TypeMistake, broadcast


def _binary_type(call: Any) -> TensorType:
    type_ = broadcast(call.x, call.y)
    if type_.dtype in (DType.BOOL, DType.SCALAR):
        _demand_numbers(call)
    return type_


def _difference_type(call: Any) -> TensorType:
    _demand_numbers(call)
    return _binary_type(call)


def _demand_numbers(call: Any) -> None:
    """Raise `TypeMistake` for truth, which PyTorch does not subtract, nor combine with a plain number."""
    for operand in ("x", "y"):
        type_ = getattr(call, operand)
        if type_.dtype is DType.BOOL:
            hint = "`upcast` makes truth float32: 1 and 0"
            raise TypeMistake(f"needs numbers, not {type_}", operand, hint=hint)


def _quotient_type(call: Any) -> TensorType:
    type_ = _binary_type(call)
    if not type_.dtype.is_floating:
        raise TypeMistake(f"divides floating-point tensors only, not {type_}", "x", "y")
    return type_


@declare(
    infer=_binary_type,
    traits=(*ELEMENTWISE, Trait.COMMUTATIVE),
    flops=per_element(1),
    triton="{x} + {y}",
    derivative=lambda g, x, y: (g, g),
    scalar=lambda x, y: x + y,
)
def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y."""
    return x + y


@declare(
    infer=_difference_type,
    traits=ELEMENTWISE,
    flops=per_element(1),
    triton="{x} - {y}",
    derivative=lambda g, x, y: (g, -g),
    scalar=lambda x, y: x - y,
)
def sub(x: Tensor, y: Tensor) -> Tensor:
    """x - y."""
    return x - y


@declare(
    infer=_binary_type,
    traits=(*ELEMENTWISE, Trait.COMMUTATIVE),
    flops=per_element(1),
    triton="{x} * {y}",
    derivative=lambda g, x, y: (g * y, g * x),
    scalar=lambda x, y: x * y,
)
def mul(x: Tensor, y: Tensor) -> Tensor:
    """x * y."""
    return x * y


@declare(
    infer=_quotient_type,
    traits=ELEMENTWISE,
    flops=per_element(1),
    triton="{x} / {y}",
    derivative=lambda g, x, y: (g / y, -(g / y * (x / y))),
    scalar=lambda x, y: x / y,
)
def div(x: Tensor, y: Tensor) -> Tensor:
    """x / y."""
    return x / y


def _share(x: Expr, y: Expr) -> Expr:
    """How much of the gradient goes to x where the larger of two counts: halves where they are equal."""
    return 0.5 + 0.5 * ((x - y).step() - (y - x).step())


@declare(
    infer=_binary_type,
    traits=(*ELEMENTWISE, Trait.COMMUTATIVE),
    flops=per_element(1),
    triton="tl.maximum({x}, {y})",
    derivative=lambda g, x, y: (g * _share(x, y), g * _share(y, x)),
    scalar=max,
)
def maximum(x: Tensor, y: Tensor) -> Tensor:
    """The larger of x and y; where they are equal, each has half of the gradient."""
    return torch.maximum(x, torch.as_tensor(y, dtype=getattr(y, "dtype", x.dtype), device=x.device))


@declare(
    infer=_binary_type,
    traits=(*ELEMENTWISE, Trait.COMMUTATIVE),
    flops=per_element(1),
    triton="tl.minimum({x}, {y})",
    derivative=lambda g, x, y: (g * _share(y, x), g * _share(x, y)),
    scalar=min,
)
def minimum(x: Tensor, y: Tensor) -> Tensor:
    """The smaller of x and y; where they are equal, each has half of the gradient."""
    return torch.minimum(x, torch.as_tensor(y, dtype=getattr(y, "dtype", x.dtype), device=x.device))


def _clamp_type(call: Any) -> TensorType:
    for bound in ("low", "high"):
        if (type_ := getattr(call, bound)).dtype is not DType.SCALAR:
            hint = "`minimum(maximum(x, low), high)` takes tensors"
            raise TypeMistake(f"needs a number as `{bound}`, not {type_}", bound, hint=hint)
    return float_type(call)


@declare(
    infer=_clamp_type,
    traits=ELEMENTWISE,
    flops=per_element(2),
    triton="tl.minimum(tl.maximum({x}, {low}), {high})",
    derivative=lambda g, x, low, high: (
        g * (1.0 - (low - x).step()) * (1.0 - (x - high).step()),
        0.0,
        0.0,
    ),
    scalar=lambda x, low, high: min(max(x, low), high),
)
def clamp(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x, but at least the number `low` and at most `high`; an x equal to one has its whole gradient."""
    return torch.clamp(x, low, high)


@declare(
    infer=float_type,
    traits=ELEMENTWISE,
    flops=per_element(1),
    triton="-{x}",
    derivative=lambda g, x: (-g,),
    scalar=lambda x: -x,
)
def neg(x: Tensor) -> Tensor:
    """-x."""
    return -x


@declare(
    infer=float_type,
    traits=ELEMENTWISE,
    flops=per_element(1),
    triton="{x} * {x}",
    derivative=lambda g, x: (g * 2 * x,),
    scalar=lambda x: x * x,
)
def square(x: Tensor) -> Tensor:
    """x * x."""
    return x * x


@declare(
    infer=float_type,
    traits=ELEMENTWISE,
    flops=per_element(1),
    triton="tl.abs({x})",
    derivative=lambda g, x: (g * (x.step() - (-x).step()),),
    scalar=abs,
)
def absolute(x: Tensor) -> Tensor:
    """|x|."""
    return x.abs()


@declare(
    infer=float_type,
    traits=ELEMENTWISE,
    flops=per_element(1),
    triton="tl.where({x} > 0, 1.0, 0.0)",
    derivative=lambda g, x: (0.0,),
    scalar=lambda x: float(x > 0),
)
def step(x: Tensor) -> Tensor:
    """1 where x > 0, else 0."""
    return (x > 0).to(x.dtype)


@declare(
    infer=float_type,
    traits=ELEMENTWISE,
    flops=per_element(1),
    triton="tl.floor({x})",
    derivative=lambda g, x: (0.0,),
    scalar=lambda x: x if isinstance(x, int) else math.floor(x),
)
def floor(x: Tensor) -> Tensor:
    """The largest whole number that is not above x."""
    return torch.floor(x)


@declare(
    infer=float_type,
    traits=ELEMENTWISE,
    triton="{x}",
    derivative=lambda g, x: (0.0,),
    scalar=lambda x: x,
)
def stop_gradient(x: Tensor) -> Tensor:
    """x, through which no gradient flows."""
    return x.detach()


def _whole_type(call: Any, operand: str = "x") -> TensorType:
    type_: TensorType = getattr(call, operand)
    if type_.dtype is not DType.I64:
        raise TypeMistake(f"needs whole numbers, not {type_}", operand, hint="`whole` makes them of others")
    return type_


@declare(infer=_whole_type, traits=(Trait.PER_TOKEN,))
def whole_quotient(x: Tensor, *, by: Width) -> Tensor:
    """x // by, for whole numbers."""
    return torch.div(x, by, rounding_mode="floor")


@declare(
    infer=lambda call: broadcast(_whole_type(call), _whole_type(call, "y")),
    traits=(Trait.PER_TOKEN, Trait.COMMUTATIVE),
)
def exclusive_or(x: Tensor, y: Tensor) -> Tensor:
    """The bits in which two whole numbers differ, as hashes mix them."""
    return torch.bitwise_xor(x, y)


@declare(infer=lambda call: float_type(call).with_dtype(DType.I64), traits=(Trait.PER_TOKEN,))
def whole(x: Tensor) -> Tensor:
    """The largest whole number that is not above x, to look something up with."""
    return torch.floor(x).long()
