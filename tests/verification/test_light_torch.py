"""PyTorch without its own compiler."""

import subprocess
import sys

_RUN = """
import sys

import torch

from archc.verification.light_torch import light_torch

heavy = ("torch._dynamo", "torch.fx.experimental.symbolic_shapes", "sympy")


def product(x):
    (torch.zeros_like(x)[:, 1:] * x[:, :3] / 2).sum().backward()
    return x.grad


with light_torch():
    assert product(torch.zeros(3, 4, device="meta", requires_grad=True)).shape == (3, 4)
    assert not any(hasattr(sys.modules[name], "__file__") for name in heavy)
assert not any(name in sys.modules for name in heavy)

with light_torch():
    product(torch.zeros(3, 4, device="meta", requires_grad=True))
    import sympy

    assert sympy.Basic not in sympy.Integer.__mro__  # it has what is asked for
    assert sympy.Basic in sympy.Integer.__mro__  # and is the module itself from then on
    assert torch._dynamo.is_dynamo_supported()
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv, guard_or_false

    assert guard_or_false(False) is False
    fake = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.zeros(3))
    assert (fake * fake).shape == (3,)
assert all(hasattr(sys.modules[name], "__file__") for name in heavy)
assert torch.compile(lambda x: x * x + x, backend="eager", dynamic=True)(torch.ones(2)).tolist() == [2, 2]
"""


def test_operators_without_memory_need_no_compiler() -> None:
    subprocess.run([sys.executable, "-c", _RUN], check=True)
