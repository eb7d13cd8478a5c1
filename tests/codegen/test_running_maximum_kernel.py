"""The kernel of running maxima, held to the op in float64."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.ir.op import OPS
from archc.verification.packages import import_package
from tests.codegen.fused_ops import changed_module
from tests.codegen.interpreter import interpreted
from tests.instruments.counted_step import counted_step
from tests.instruments.planned_step import planned_step
from tests.support import ROOT, build, compile_model, distance

FAMILIES = ROOT / "tests" / "interop" / "families"
WIDTH, TOKENS = 5, 21
SPEC = """
arch Running(d = 5) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 9, d) as wte
    m, change = running_maximum(x, log_decay = DECAY, first = FIRST)
    return linear(cast_like(m * exp(change), x), 9) as head
  }
}
model running = Running()
"""
FORMS = {
    "from nothing": ("-softplus(linear(x, d) as gate)", "none"),
    "from a number": ("-softplus(linear(x, d) as gate)", "0.5"),
    "fixed decline": ("-exp(parameter([d]) as decline)", "none"),
}


@functools.cache
def _kernels(form: str, folder: Path) -> Any:
    """Those of a package, with tiles of so few tokens that there are several."""
    decay, first = FORMS[form]
    package = build(SPEC.replace("DECAY", decay).replace("FIRST", first), "running", folder)
    kernels = package.kernels
    return changed_module(kernels, '"TOKENS": 128', '"TOKENS": 8')


def _operands(form: str, tokens: int, start: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Of two sequences, the second with padding before it and in between; a decay to nothing.

    The numbers are columns of wider rows.
    """
    x = (3 * torch.randn(2, tokens, 2 * WIDTH)).to(dtype)[..., :WIDTH]
    decay = -torch.rand(WIDTH) if form == "fixed decline" else -torch.rand(2, tokens, WIDTH)
    positions = torch.arange(start, start + tokens).repeat(2, 1)
    if tokens > 1:
        positions[1] -= 3 if start else 11
        positions[1, positions[1] < start] = -1
        decay[..., 2] = -torch.inf
    return x, decay, positions


def _truth(form: str, x: Tensor, positions: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    first = FORMS[form][1]
    given = x.to(state.dtype), positions, decay.to(state.dtype), state
    m, change = OPS["carry_maximum"].reference(*given, first=None if first == "none" else float(first))
    return m, change


def _compare(kernels: Any, form: str, dtype: torch.dtype) -> None:
    """A prompt in two parts, and one token: no more is lost than by the op in float32."""
    state = torch.zeros(2, WIDTH)
    exact, single = state.double(), state.clone()
    start = 0
    for tokens in (TOKENS, TOKENS, 1):
        x, decay, positions = _operands(form, tokens, start, dtype)
        found = kernels.running_maximum(x, positions, decay, state)
        unfused = _truth(form, x.float(), positions, decay, single)
        wanted = _truth(form, x, positions, decay, exact)
        real = positions >= 0
        for ours, plain, truth in zip(found, unfused, wanted, strict=True):
            assert ours.isfinite().all()
            lost, limit = (distance(each[real].exp(), truth[real].exp()) for each in (ours, plain))
            assert lost <= 1.01 * limit + 1e-9
        assert distance(state, exact) < 1e-7
        start += tokens


@pytest.mark.parametrize(
    ("form", "dtype"),
    [*((form, torch.float32) for form in FORMS), ("from nothing", torch.bfloat16)],
    ids=str,
)
@interpreted
def test_kernel(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    _compare(_kernels(form, tmp_path.parent), form, dtype)


@interpreted
def test_what_a_sum_decays_by_is_of_maxima_as_they_are_rounded(tmp_path: Path) -> None:
    """Far on, float32 rounds m by more than a token's decay; all of them together lose nothing."""
    kernels = _kernels("from a number", tmp_path.parent)
    x, decay = torch.full((1, TOKENS, WIDTH), -2e6), -1e-3 * torch.rand(1, TOKENS, WIDTH)
    positions = torch.arange(100_000, 100_000 + TOKENS)[None]
    m, change = kernels.running_maximum(x, positions, decay, torch.full((1, WIDTH), -1e5))
    before = torch.cat([torch.full((1, 1, WIDTH), -1e5), m[:, :-1]], 1).double()
    assert torch.equal(change, (before + decay.double() - m.double()).float())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(position >= 0)[:, None]", "(position >= -1)[:, None]"),
        ("token - 1, first", "token, first"),
        ('tl.where(begins, float("-inf"), start)', "start"),
        ("start = tl.sum(", "start = 0.5 * tl.sum("),
        ("tl.maximum(log_decay, -1.0e4)", "log_decay"),
    ],
)
@interpreted
def test_a_wrong_kernel_is_found(old: str, new: str, tmp_path: Path) -> None:
    changed = changed_module(_kernels("from nothing", tmp_path.parent), old, new)
    with pytest.raises(AssertionError):
        _compare(changed, "from nothing", torch.float32)


@pytest.mark.parametrize("model", ["xlstm", "rwkv"])
def test_a_step_launches_and_moves_what_the_plan_says(model: str, tmp_path: Path) -> None:
    compilation = compile_model(FAMILIES / f"{model}.arch", model)
    plan = planned_step(compilation.fused, batch=2, context=300)
    step = counted_step(import_package(compilation, tmp_path), batch=2, context=300)
    assert (step.count, step.launches["running_maximum"]) == (plan.count, plan.launches["carry_maximum"])
    assert step.bytes == pytest.approx(plan.bytes, rel=0.05)
