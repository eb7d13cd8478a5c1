"""Names of a spec's values that generated code has uses of its own for."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.codegen.interpreter import interpreted
from tests.support import build, distance, scramble

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
