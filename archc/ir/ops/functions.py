"""Elementwise functions: exponentials, roots and what is made of them.

Each states its Triton expression and its derivative, as `elementwise` arithmetic does.
"""

import math

from archc.ir.lazy_torch import F, Tensor, torch
from archc.ir.op import declare
from archc.ir.ops.common import ELEMENTWISE, float_type, per_element


@declare(
    infer=float_type,
    traits=ELEMENTWISE,
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
    traits=ELEMENTWISE,
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
    traits=ELEMENTWISE,
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
    traits=ELEMENTWISE,
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
    traits=ELEMENTWISE,
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
    traits=ELEMENTWISE,
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
    traits=ELEMENTWISE,
    flops=per_element(4),
    triton="tl.cos({x})",
    derivative=lambda g, x: (-(g * x.sin()),),
    scalar=math.cos,
)
def cos(x: Tensor) -> Tensor:
    """Cosine of an angle in radians."""
    return torch.cos(x)


@declare(
    infer=float_type,
    traits=ELEMENTWISE,
    flops=per_element(4),
    triton="tl.sin({x})",
    derivative=lambda g, x: (g * x.cos(),),
    scalar=math.sin,
)
def sin(x: Tensor) -> Tensor:
    """Sine of an angle in radians."""
    return torch.sin(x)


@declare(
    infer=float_type,
    traits=ELEMENTWISE,
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
    traits=ELEMENTWISE,
    flops=per_element(4),
    triton="tl.maximum({x}, 0.0) + log1p(tl.exp(-tl.abs({x})))",
    derivative=lambda g, x: (g * x.sigmoid(),),
    scalar=lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
)
def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x)."""
    return F.softplus(x)
