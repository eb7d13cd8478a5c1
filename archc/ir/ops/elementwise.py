"""Elementwise ops: arithmetic, activations, casts.

Each states its Triton expression on float32 registers and its derivative, from which the fused pointwise
kernels and their backward passes are written.
"""

import math
from typing import Any

from archc.ir.attributes import Width
from archc.ir.expr import Expr
from archc.ir.lazy_torch import F, Tensor, torch
from archc.ir.op import Trait, declare
from archc.ir.ops.common import float_type, per_element
from archc.ir.types import DType, TensorType, TypeMistake, broadcast

_TRAITS = (Trait.ELEMENTWISE, Trait.PER_TOKEN)
_SQRT_HALF = math.sqrt(0.5)
_GELU_TANH_SCALE = 2 * math.sqrt(2 / math.pi)


def _binary_type(call: Any) -> TensorType:
    return broadcast(call.x, call.y)


def _quotient_type(call: Any) -> TensorType:
    type_ = _binary_type(call)
    if not type_.dtype.is_floating:
        raise TypeMistake(f"divides floating-point tensors only, not {type_}", "x", "y")
    return type_


# ----------------------------------------------------------------- arithmetic


@declare(
    infer=_binary_type,
    traits=(*_TRAITS, Trait.COMMUTATIVE),
    flops=per_element(1),
    triton="{x} + {y}",
    derivative=lambda g, x, y: (g, g),
    scalar=lambda x, y: x + y,
)
def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y."""
    return x + y


@declare(
    infer=_binary_type,
    traits=_TRAITS,
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
    traits=(*_TRAITS, Trait.COMMUTATIVE),
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
    traits=_TRAITS,
    flops=per_element(1),
    triton="{x} / {y}",
    derivative=lambda g, x, y: (g / y, -g * x / (y * y)),
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
    traits=(*_TRAITS, Trait.COMMUTATIVE),
    flops=per_element(1),
    triton="tl.maximum({x}, {y})",
    derivative=lambda g, x, y: (g * _share(x, y), g * _share(y, x)),
    scalar=max,
)
def maximum(x: Tensor, y: Tensor) -> Tensor:
    """The larger of x and y."""
    return torch.maximum(x, torch.as_tensor(y, dtype=x.dtype, device=x.device))


@declare(
    infer=_binary_type,
    traits=(*_TRAITS, Trait.COMMUTATIVE),
    flops=per_element(1),
    triton="tl.minimum({x}, {y})",
    derivative=lambda g, x, y: (g * _share(y, x), g * _share(x, y)),
    scalar=min,
)
def minimum(x: Tensor, y: Tensor) -> Tensor:
    """The smaller of x and y."""
    return torch.minimum(x, torch.as_tensor(y, dtype=x.dtype, device=x.device))


@declare(
    infer=float_type,
    traits=_TRAITS,
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
    traits=_TRAITS,
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
    traits=_TRAITS,
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
    traits=_TRAITS,
    flops=per_element(1),
    triton="tl.where({x} > 0, 1.0, 0.0)",
    derivative=lambda g, x: (g * 0.0,),
    scalar=lambda x: float(x > 0),
)
def step(x: Tensor) -> Tensor:
    """1 where x > 0, else 0."""
    return (x > 0).to(x.dtype)


@declare(
    infer=float_type,
    traits=_TRAITS,
    flops=per_element(1),
    triton="tl.floor({x})",
    derivative=lambda g, x: (g * 0.0,),
    scalar=lambda x: x if isinstance(x, int) else math.floor(x),
)
def floor(x: Tensor) -> Tensor:
    """The whole number below x, or x itself."""
    return torch.floor(x)


# ------------------------------------------------------------------ functions


@declare(
    infer=float_type,
    traits=_TRAITS,
    flops=per_element(1),
    triton="tl.exp({x})",
    derivative=lambda g, x: (g * x.exp(),),
    scalar=math.exp,
    saves=("result",),
)
def exp(x: Tensor) -> Tensor:
    """e^x."""
    return torch.exp(x)


@declare(
    infer=float_type,
    traits=_TRAITS,
    flops=per_element(1),
    triton="tl.log({x})",
    derivative=lambda g, x: (g / x,),
    scalar=math.log,
)
def log(x: Tensor) -> Tensor:
    """Natural logarithm."""
    return torch.log(x)


@declare(
    infer=float_type,
    traits=_TRAITS,
    flops=per_element(1),
    triton="tl.sqrt({x})",
    derivative=lambda g, x: (g * 0.5 / x.sqrt(),),
    scalar=math.sqrt,
    saves=("result",),
)
def sqrt(x: Tensor) -> Tensor:
    """Square root."""
    return torch.sqrt(x)


@declare(
    infer=float_type,
    traits=_TRAITS,
    flops=per_element(2),
    triton="1.0 / tl.sqrt({x})",
    derivative=lambda g, x: (g * -0.5 / (x * x.sqrt()),),
    scalar=lambda x: 1 / math.sqrt(x),
    saves=("result",),
)
def rsqrt(x: Tensor) -> Tensor:
    """1 / sqrt(x)."""
    return torch.rsqrt(x)


@declare(
    infer=float_type,
    traits=_TRAITS,
    flops=per_element(4),
    triton="tl.sigmoid({x})",
    derivative=lambda g, x: (g * x.sigmoid() * (1 - x.sigmoid()),),
    scalar=lambda x: 1 / (1 + math.exp(-x)),
    saves=("result",),
)
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x)."""
    return torch.sigmoid(x)


@declare(
    infer=float_type,
    traits=_TRAITS,
    flops=per_element(4),
    triton="tanh({x})",
    derivative=lambda g, x: (g * (1 - x.tanh() * x.tanh()),),
    scalar=math.tanh,
    saves=("result",),
)
def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return torch.tanh(x)


@declare(
    infer=float_type,
    traits=_TRAITS,
    flops=per_element(4),
    triton="tl.erf({x})",
    derivative=lambda g, x: (g * (2 / math.sqrt(math.pi)) * (-x * x).exp(),),
    scalar=math.erf,
)
def erf(x: Tensor) -> Tensor:
    """The error function."""
    return torch.erf(x)


@declare(
    infer=float_type,
    traits=_TRAITS,
    flops=per_element(4),
    triton="tl.maximum({x}, 0.0) + tl.log(1.0 + tl.exp(-tl.abs({x})))",
    derivative=lambda g, x: (g * x.sigmoid(),),
    scalar=lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
)
def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x)."""
    return F.softplus(x)


# ---------------------------------------------------------------- activations


@declare(
    infer=float_type,
    traits=_TRAITS,
    flops=per_element(1),
    triton="tl.maximum({x}, 0.0)",
    derivative=lambda g, x: (g * x.step(),),
    saves=("result",),
)
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return F.relu(x)


def _silu_derivative(g: Expr, x: Expr) -> tuple[Expr]:
    s = x.sigmoid()
    return (g * s * (1 + x * (1 - s)),)


@declare(
    infer=float_type,
    traits=_TRAITS,
    flops=per_element(5),
    triton="{x} * tl.sigmoid({x})",
    derivative=_silu_derivative,
)
def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return F.silu(x)


def _gelu_derivative(g: Expr, x: Expr) -> tuple[Expr]:
    cdf = 0.5 + 0.5 * (x * _SQRT_HALF).erf()
    density = (-0.5 * x * x).exp() * (1 / math.sqrt(2 * math.pi))
    return (g * (cdf + x * density),)


@declare(
    infer=float_type,
    traits=_TRAITS,
    flops=per_element(8),
    triton=f"0.5 * {{x}} * (1.0 + tl.erf({{x}} * {_SQRT_HALF!r}))",
    derivative=_gelu_derivative,
)
def gelu(x: Tensor) -> Tensor:
    """x * P(N(0, 1) <= x), by erf."""
    return F.gelu(x)


def _gelu_tanh_derivative(g: Expr, x: Expr) -> tuple[Expr]:
    s = (_GELU_TANH_SCALE * (x + 0.044715 * x * x * x)).sigmoid()
    slope = _GELU_TANH_SCALE * (1 + 3 * 0.044715 * x * x)
    return (g * s * (1 + x * (1 - s) * slope),)


# The kernel's form is the same function, by (1 + tanh(u)) / 2 = sigmoid(2 u).
@declare(
    infer=float_type,
    traits=_TRAITS,
    flops=per_element(10),
    triton=f"{{x}} * tl.sigmoid({_GELU_TANH_SCALE!r} * ({{x}} + 0.044715 * {{x}} * {{x}} * {{x}}))",
    derivative=_gelu_tanh_derivative,
)
def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation: x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))."""
    return F.gelu(x, approximate="tanh")


def _whole_type(call: Any) -> TensorType:
    if call.x.dtype is not DType.I64:
        raise TypeMistake(f"needs whole numbers, not {call.x}", "x")
    type_: TensorType = call.x
    return type_


@declare(infer=_whole_type, traits=(Trait.PER_TOKEN,))
def whole_quotient(x: Tensor, *, by: Width) -> Tensor:
    """x // by, for whole numbers."""
    return torch.div(x, by, rounding_mode="floor")


# ---------------------------------------------------------------------- casts


# No kernel has it: what the number is rounded to depends on the dtype that it is run in.
@declare(infer=float_type, traits=(Trait.PER_TOKEN,), flops=per_element(1))
def scaled(x: Tensor, *, by: float) -> Tensor:
    """x * by, where `by` is first rounded to the dtype of x, as a number that a checkpoint holds would be."""
    return x * torch.tensor(by, dtype=x.dtype, device="cpu")


@declare(infer=lambda call: call.x.with_dtype(DType.F32), traits=_TRAITS, triton="{x}")
def upcast(x: Tensor) -> Tensor:
    """x in float32, or as it is where it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@declare(
    infer=lambda call: call.x.with_dtype(float_type(call, "like").dtype),
    traits=(Trait.PER_TOKEN,),
    models=("like",),
)
def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """x in the dtype of another, floating-point tensor."""
    return x.to(like.dtype)


@declare(
    infer=lambda call: call.x.with_dtype(DType.F32),
    traits=(Trait.PER_TOKEN,),
    models=("like",),
    internal=True,
)
def upcast_like(x: Tensor, like: Tensor) -> Tensor:
    """x in float32, or in the dtype of another tensor where that is wider."""
    return x.to(torch.promote_types(like.dtype, torch.float32))
