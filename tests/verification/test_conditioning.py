"""How far a pass may go follows from what a graph was given, not from a number or a lucky error alone."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from archc import compiler
from archc.ir.graph import Graph
from archc.ir.program import Program
from archc.passes.context import Context
from archc.target import CUDA
from archc.verification import stages
from archc.verification.cases import random_weights
from archc.verification.outcome import Outcome
from archc.verification.packages import (
    GRADIENT,
    _check_forward,
    _check_training,
    check_package,
    import_package,
)
from archc.verification.truths import Truths
from tests.support import compile_model

# What is left of a large number after its whole part, by which its last digits count.
SPEC = "arch A() { forward(x: float[B, T, 8]) { h = RESULT return h - floor(h) } } model m = A()"
ONCE, TWICE, OTHER = (
    "(linear(x, 8) as w) * 1e12",
    "(linear(x, 8) as w) * 1e6 * 1e6",
    "(linear(x, 8) as w) * 3",
)
# Rows near 1, of so few digits that float32 has them, and how far they are from 1, without an error.
ROWS = """arch A() { forward(tokens: [B, T]) {
  h = RESULT
  return h - 1
} } model m = A()"""
TURNS = """arch A() { forward(tokens: [B, T]) {
  h = sin((embedding(tokens, 9, 8) as w) * 1e8)
  return linear(h, 9) as head
} }
model m = A()"""
ROW = "(embedding(tokens, 9, 8) as w)"


def _program(spec: str, result: str) -> Program:
    read = compiler.read_spec_text(spec.replace("RESULT", result))
    (program,) = compiler.lower_models(read, read.models)
    return program


def _outcomes(spec: str, before: str, after: str, monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """What is found of a pass that makes one result of another."""
    program = _program(spec, before)
    found = [("before", program.graph), ("after", _program(spec, after).graph)]
    monkeypatch.setattr(stages, "stages", lambda *_: found)
    return list(stages.check_stages(program, Context((), CUDA), each_pass=False))


@pytest.mark.parametrize(
    ("before", "after", "holds"), [(ONCE, TWICE, True), (OTHER, f"{OTHER} + 1e-7", False)]
)
def test_what_rounding_of_weights_changes_as_much_is_no_fault(
    before: str, after: str, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = _outcomes(SPEC, before, after, monkeypatch)
    exact = [outcome for outcome in outcomes if outcome.check == "float64"]
    assert max(outcome.error for outcome in exact) > stages.EXACT
    assert all(outcome.holds for outcome in exact) is holds


def _of_few_digits(graph: Graph, outliers: bool) -> dict[str, Tensor]:
    given = random_weights(graph, outliers)
    return {name: (1 + 0.01 * x).to(torch.bfloat16).double() for name, x in given.items()}


@pytest.mark.parametrize(
    ("after", "holds"), [(f"{ROW} * 0.7 / 0.7", True), (f"({ROW} * 0.7 + 30 - 30) / 0.7", False)]
)
def test_a_lucky_unfused_graph_leaves_room_for_rounding_and_for_no_more(
    after: str, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "random_weights", _of_few_digits)
    outcomes = _outcomes(ROWS, ROW, after, monkeypatch)
    rounded = [outcome for outcome in outcomes if outcome.check == "float32"]
    assert min(outcome.error for outcome in rounded) > stages.FLOOR
    assert {outcome.holds for outcome in rounded} == {holds}
    assert all(outcome.holds for outcome in outcomes if outcome.check == "float64")


@pytest.mark.parametrize(("lost", "holds"), [(0.0, True), (30.0, False)])
def test_so_does_a_package(lost: float, holds: bool) -> None:
    """Its float32 rounds where the unfused graph does not; what is added and taken away costs digits."""
    compilation = compile_model(ROWS.replace("RESULT", ROW), "m")
    weights = _of_few_digits(compilation.program.graph, outliers=False)
    (table,) = weights.values()

    def exact(tokens: Tensor, **_: Tensor) -> Tensor:
        return table[tokens] - 1

    def rounded(tokens: Tensor, **_: Tensor) -> Tensor:
        return (table.float()[tokens] * 0.7 + lost - lost) / 0.7 - 1

    outcomes = list(_check_forward(Truths(compilation, weights), "Model", exact, rounded))
    assert min(outcome.error for outcome in outcomes if outcome.check == "float32") > stages.FLOOR
    assert {outcome.holds for outcome in outcomes if outcome.check == "float32"} == {holds}
    assert all(outcome.holds for outcome in outcomes if outcome.check == "float64")


def test_so_does_a_cache() -> None:
    """A token's sum is taken in another order than a chunk's, and its last digits are what is left."""
    recurrent = "split_heads(linear(x, 8) as w, 1) h = merge_heads(linear_attention(h, h, h)) * 1e9"
    outcomes = list(check_package(compile_model(SPEC.replace("RESULT", recurrent), "m")))
    cached = [outcome for outcome in outcomes if outcome.check == "cache"]
    assert max(outcome.error for outcome in cached) > stages.EXACT
    assert all(outcome.holds for outcome in cached)


@pytest.mark.parametrize(("by", "holds"), [(torch.finfo(torch.float64).eps, True), (1e-12, False)])
def test_so_do_loss_and_gradients(by: float, holds: bool, tmp_path: Path) -> None:
    """Those of a sine of large angles, of which a weight's last digits decide."""
    compilation = compile_model(TURNS, "m")
    reference = import_package(compilation, tmp_path).Reference(dtype=torch.float64)
    generator = torch.Generator().manual_seed(99)
    for each in reference.parameters():
        each.data = torch.randn(each.shape, generator=generator, dtype=torch.float64)
    model = deepcopy(reference)
    for each in model.parameters():
        each.data *= 1 + by * torch.randn(each.shape, generator=generator, dtype=torch.float64).sign()
    outcomes = {outcome.check: outcome for outcome in _check_training(compilation, model, reference)}
    assert outcomes["gradients"].error > GRADIENT
    assert outcomes["gradients"].holds is holds
    assert outcomes["loss"].holds or not holds
