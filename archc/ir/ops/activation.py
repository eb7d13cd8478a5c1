"""Activations.

Each states its Triton expression on float32 registers and its derivative, from which the fused pointwise
kernels and their backward passes are written.
"""

import math

from archc.ir.expr import Expr
from archc.ir.lazy_torch import F, Tensor
from archc.ir.op import declare
from archc.ir.ops.common import ELEMENTWISE, float_type, per_element

_SQRT_HALF = math.sqrt(0.5)
_GELU_TANH_SCALE = 2 * math.sqrt(2 / math.pi)


@declare(
    infer=float_type,
    traits=ELEMENTWISE,
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
    traits=ELEMENTWISE,
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
    traits=ELEMENTWISE,
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
    return (g * (s + x * s * (1 - s) * slope),)  # the slope overflows where s is 0 or 1


# The kernel's form is the same function, by (1 + tanh(u)) / 2 = sigmoid(2 u).
@declare(
    infer=float_type,
    traits=ELEMENTWISE,
    flops=per_element(10),
    triton=f"{{x}} * tl.sigmoid({_GELU_TANH_SCALE!r} * ({{x}} + 0.044715 * {{x}} * {{x}} * {{x}}))",
    derivative=_gelu_tanh_derivative,
)
def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation: x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))."""
    return F.gelu(x, approximate="tanh")
