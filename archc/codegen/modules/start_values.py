"""The start values of parameters, as code."""

from __future__ import annotations

import math

from archc.ir.inits import Fill, Init, InverseSoftplus, Logarithm, LogUniform, Normal, Spaced, Uniform

# What is done in place to values whose exponential, or softplus, is given.
_INVERSES = {Logarithm: ".log_()", InverseSoftplus: ".expm1_().log_()"}


def start_code(init: Init, whole: bool = False) -> str:
    """The initialisation as a call with `{}` for the parameter, which may be of whole numbers."""
    if whole:
        assert isinstance(init, Uniform)
        return f"{{}}.random_({int(init.low)}, {int(init.high)})"
    if isinstance(init, Normal):
        return f"nn.init.normal_({{}}, std={init.std!r})"
    if isinstance(init, LogUniform):
        return f"nn.init.uniform_({{}}, {math.log(init.low)!r}, {math.log(init.high)!r}).detach().exp_()"
    if isinstance(init, Uniform):
        return f"nn.init.uniform_({{}}, {init.low!r}, {init.high!r})"
    if isinstance(init, Spaced):
        return f"{{0}}.detach().copy_(torch.linspace({init.first!r}, {init.last!r}, {{0}}.shape[-1]))"
    if isinstance(init, Logarithm | InverseSoftplus):
        inner = start_code(init.of)
        return inner + (".detach()" if ".detach()" not in inner else "") + _INVERSES[type(init)]
    assert isinstance(init, Fill)
    if init.value in (0.0, 1.0):
        return "nn.init.zeros_({})" if init.value == 0.0 else "nn.init.ones_({})"
    return f"nn.init.constant_({{}}, {init.value!r})"
