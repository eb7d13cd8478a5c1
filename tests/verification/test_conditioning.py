"""How far a pass may go in float64 follows from what it was given, not from a number alone."""

from __future__ import annotations

import pytest

from archc import compiler
from archc.ir.graph import Graph
from archc.passes.context import Context
from archc.target import CUDA
from archc.verification import stages
from archc.verification.outcome import Outcome

# What is left of a large number after its whole part, by which its last digits count.
SPEC = "arch A() { forward(x: float[B, T, 8]) { h = RESULT return h - floor(h) } } model m = A()"
ONCE, TWICE, OTHER = (
    "(linear(x, 8) as w) * 1e12",
    "(linear(x, 8) as w) * 1e6 * 1e6",
    "(linear(x, 8) as w) * 3",
)


def _graph(result: str) -> Graph:
    spec = compiler.read_spec_text(SPEC.replace("RESULT", result))
    return compiler.lower_models(spec, spec.models)[0].graph


@pytest.mark.parametrize(
    ("before", "after", "holds"), [(ONCE, TWICE, True), (OTHER, f"{OTHER} + 1e-7", False)]
)
def test_what_rounding_of_weights_changes_as_much_is_no_fault(
    before: str, after: str, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [("before", _graph(before)), ("after", _graph(after))]
    monkeypatch.setattr(stages, "stages", lambda *_: found)
    spec = compiler.read_spec_text(SPEC.replace("RESULT", before))
    (program,) = compiler.lower_models(spec, spec.models)
    outcomes: list[Outcome] = list(stages.check_stages(program, Context((), CUDA), each_pass=False))
    exact = [outcome for outcome in outcomes if outcome.check == "float64"]
    assert max(outcome.error for outcome in exact) > stages.EXACT
    assert all(outcome.holds for outcome in exact) is holds
