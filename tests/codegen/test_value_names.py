"""Names of a spec's values that generated code has uses of its own for."""

from __future__ import annotations

from pathlib import Path

import torch

from archc.verification.launch import Launch
from archc.verification.launches import find_launches
from tests.codegen.interpreter import interpreted
from tests.support import build, compile_model, distance, scramble

NAMES = ("ctx", "reference", "native", "torch", "output", "len", "dh")


@interpreted
def test_values_hide_nothing(tmp_path: Path) -> None:
    """Operands and results of fused ops, called as what stands around their kernels, or as a gradient."""
    # Factors make each an op of its own: equal ones share a kernel, and its names.
    lines = [f"""{name} = linear(y, 8) as a_{n}
            y = y + rms_norm(sigmoid({n + 2} * linear(y, 8) as b_{n}) * {name}, 1e-6) as norm_{n}
            {name} = tanh({n + 2} * {name}) * silu(CausalConv({name}, taps = 2) as conv_{n})
            h = softplus(-linear({name}, 8, bias = true) as c_{n} * parameter([8]) as of_{n}.{name} / {n + 2})
            y = y + linear(h, 8) as d_{n}""" for n, name in enumerate(NAMES)]
    body = "\n".join(lines)
    spec = (
        f"import std\narch A() {{ forward(x: float[B, T, 8]) {{ y = x\n{body}\nreturn y }} }}\nmodel a = A()"
    )
    package = build(spec, "a", tmp_path)
    unfused = package.Reference(dtype=torch.float64)
    scramble(unfused)
    unfused.save_pretrained(tmp_path / "saved")
    model, x = package.Model.from_pretrained(tmp_path / "saved", dtype=torch.float32), torch.randn(1, 3, 8)
    exact = x.double().requires_grad_()
    x.requires_grad_()
    found, truth = model(x), unfused(exact)
    assert distance(found, truth) < 1e-5
    found.sum().backward()
    truth.sum().backward()
    assert x.grad is not None
    assert exact.grad is not None
    assert distance(x.grad, exact.grad) < 1e-4


def test_parameters_hide_nothing(tmp_path: Path) -> None:
    """Around the kernel of a fused op and a linear map stands the most Python."""
    spec = """arch A() { forward(tokens: [B, T]) {
          x = embedding(tokens, 64, 64) as embed
          for i in 0..2 as layers {
            gate = sigmoid(x + parameter([64]) as triton) + parameter([64]) as _1
            x = x + linear(x * gate, 64) as up
          }
          return linear(x, 64) as head
        } }
        model a = A()"""
    found: list[Launch] = []
    find_launches(compile_model(spec, "a"), tmp_path, torch.bfloat16, found.append)
    assert "_add_sigmoid_mul_linear_kernel" in {launch.name for launch in found}
