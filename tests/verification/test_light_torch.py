"""PyTorch without its own compiler."""

import subprocess
import sys

_RUN = """
import sys

import torch

from archc.verification.light_torch import without_dynamo

x = torch.zeros(3, 4, device="meta", requires_grad=True)
with without_dynamo():
    (torch.zeros_like(x) * x / 2).sum().backward()
    assert x.grad.shape == x.shape
    assert not hasattr(sys.modules.get("torch._dynamo"), "__file__")
assert "torch._dynamo" not in sys.modules

with without_dynamo():
    (x + x) * x
    assert torch._dynamo.is_dynamo_supported()  # what the stand-in lacks is the module's own
    (x + x) * x
assert torch.compile(lambda x: x * x + x, backend="eager")(torch.ones(2)).tolist() == [2, 2]
"""


def test_operators_without_memory_need_no_compiler() -> None:
    subprocess.run([sys.executable, "-c", _RUN], check=True)
