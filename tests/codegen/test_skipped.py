"""Choices that are no expert's: nothing is read or computed for them, forward, backward and in caches."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.ir.op import OPS
from archc.ir.ops import experts
from archc.verification.packages import stored_tensors
from tests.codegen.expert_bodies import BODIES, spec_of
from tests.codegen.interpreter import interpreted
from tests.support import build, distance, few, scramble

EXACT = 1e-13
FLOAT32 = 1e-5
SKIPPED = """weights = relu(weights - 0.2)
             chosen = unless_zero(chosen, weights)"""
LATE = """weights = within_capacity(weights, chosen, 5, 2)
          chosen = unless_zero(chosen, weights)"""

# Expert 4 is every token's second choice, of weight 0.
UNREAD = """
    import std
    arch A() {{
      forward(x: float[B, T, 12]) {{
        weights, chosen = top_k(softmax(linear(x, 5) as router) + [0, 0, 0, 8, 4], 2)
        weights = weights * [1, 0]
        return experts e in unless_zero(chosen, weights) of 5 as experts {{
          return {returned}
        }}
      }}
    }}
    model a = A()
"""


@functools.cache
def _package(folder: Path, body: str, before: str = SKIPPED) -> Any:
    return build(spec_of(BODIES[body][0], before), "a", folder)


@pytest.mark.parametrize("body", few(BODIES, 6))
def test_any_body_is_what_the_plain_loop_computes(body: str, tmp_path: Path) -> None:
    """Values with and without gradients, and the gradients, where memory begins as NaN."""
    _compare(_package(tmp_path, body), torch.float64, EXACT, tmp_path)


@pytest.mark.parametrize("body", few(BODIES, 4))
@interpreted
def test_kernels_are_what_the_plain_loop_computes(body: str, tmp_path: Path) -> None:
    _compare(_package(tmp_path, body), torch.float32, FLOAT32, tmp_path)


@interpreted
def test_choices_beyond_a_capacity_are_left_out_where_they_are_sorted(tmp_path: Path) -> None:
    """No op of its own marks them."""
    package = _package(tmp_path, "gated", LATE)
    _compare(package, torch.float32, FLOAT32, tmp_path)
    assert "unless_zero" not in inspect.getsource(package.model)
    kernels = package.kernels
    for tokens in (9, 1366):
        chosen = torch.randint(0, 5, (2, tokens, 2))
        weights = torch.rand(2, tokens, 2).round(decimals=1) - 0.3
        weights = weights.relu()
        expected = experts.sort_choices(chosen, weights, count=5)
        assert all(map(torch.equal, kernels.sort_choices(chosen, weights, 5), expected))


def test_a_capacity_saves_what_it_leaves_out(tmp_path: Path) -> None:
    package = _package(tmp_path, "gated", LATE)
    model, functions = package.Model(), package.experts
    with functions.counted() as loads, torch.no_grad():
        model(torch.randn(1, 30, 12))
    assert loads[0].max() <= 2


def _compare(package: Any, dtype: torch.dtype, bound: float, folder: Path) -> None:
    model = package.Model(dtype=torch.float64)
    scramble(model)
    model.save_pretrained(folder / "weights")
    model, exact = (
        kind.from_pretrained(folder / "weights", dtype=each)
        for kind, each in ((package.Model, dtype), (package.Reference, torch.float64))
    )
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.no_grad():
            alone = model(x.to(dtype))
        found, truth = model(x.to(dtype)), exact(x)
        found.square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    truth.square().sum().backward()
    assert distance(alone, truth) < bound
    assert distance(found, truth) < bound
    gradients, truths = (dict(stored_tensors(each, gradients=True)) for each in (model, exact))
    assert gradients.keys() == truths.keys()
    for name, gradient in gradients.items():
        assert distance(gradient, truths[name]) < 10 * bound


@pytest.mark.parametrize(
    "returned", ["weights[e] * GatedMLP(x, 20, silu)", "linear(x, 12, bias = true) as w"]
)
@pytest.mark.parametrize("kind", ["Model", "Reference"])
def test_an_expert_that_none_has_chosen_is_not_read(returned: str, kind: str, tmp_path: Path) -> None:
    _hold_unread(returned, kind, tmp_path)


@interpreted
def test_kernels_read_no_expert_that_none_has_chosen(tmp_path: Path) -> None:
    _hold_unread(
        "weights[e] * linear(relu(linear(x, 20, bias = true) as v), 12, bias = true) as w", "Model", tmp_path
    )


def _hold_unread(returned: str, kind: str, folder: Path) -> None:
    """Its weights are NaN, which a weight of 0 would not hide."""
    package = build(UNREAD.format(returned=returned), "a", folder)
    model = getattr(package, kind)()
    scramble(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "router" not in name and (parameter.dim() > 2 or "bias" in name or "offset" in name):
                parameter[4] = torch.nan
            elif ".4." in name:
                parameter.fill_(torch.nan)
    x = torch.randn(2, 9, 12)
    y = model(x)
    assert bool(y.isfinite().all())
    y.square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert bool(parameter.grad.isfinite().all()), name


# tokens, choices of each, experts: some of one block, some of several
@pytest.mark.parametrize(("tokens", "choices", "count"), [(1, 1, 3), (9, 2, 5), (150, 2, 64), (1366, 3, 7)])
@interpreted
def test_choices_are_sorted_as_pytorch_does(tokens: int, choices: int, count: int, tmp_path: Path) -> None:
    package = _package(tmp_path, "gated")
    kernels = package.kernels
    for least in (-1, -count):
        chosen = torch.randint(least, count, (2, tokens, choices)).clamp(min=-1)
        expected = experts.sort_choices(chosen, count=count)
        assert all(map(torch.equal, kernels.sort_choices(chosen, count), expected))
        idle = int((chosen < 0).sum())
        assert int(expected[2][-1]) == chosen.numel() - idle


def test_a_capacity_leaves_choices_that_are_no_experts() -> None:
    chosen = torch.tensor([[[-1, 0], [-1, 0], [-1, 0]]])
    weights, places = torch.ones(1, 3, 2), torch.arange(3)[None]
    within = OPS["within"].reference(weights, chosen, chosen, places, places, count=2, capacity=1)
    assert within.tolist() == [[[1, 1], [1, 0], [1, 0]]]


@pytest.mark.parametrize("kind", ["Model", "Reference"])
def test_loads_are_of_experts_alone(kind: str, tmp_path: Path) -> None:
    """A bias of what is no expert stays as it is."""
    spec = """
        arch A() {
          forward(x: float[B, T, 12]) {
            scores = softmax(linear(x, 5) as router)
            bias = parameter([5], init = fill(0), trained = false) as bias
            _, chosen = top_k(scores + bias, 2)
            weights = gather(scores, chosen) * step(3 - upcast(chosen))
            return experts e in unless_zero(chosen, weights) of 3 as experts {
              return weights[e] * linear(x, 12) as w
            }
          }
        }
        model a = A()
    """
    package = build(spec, "a", tmp_path)
    model, functions = getattr(package, kind)(), package.experts
    scramble(model)
    bias: Tensor = model.bias
    bias.data.zero_()
    with functions.counted() as loads, torch.no_grad():
        model(torch.randn(2, 9, 12))
    assert loads[0].shape == (3,)
    assert 0 < int(loads[0].sum()) < 2 * 9 * 2
    functions.balance([bias], loads, rate=0.5)
    assert bias[3:].tolist() == [0, 0]
    assert bias[:3].abs().max() == 0.5
