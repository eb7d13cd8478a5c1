"""Published architectures that transformers lacks, as specs: packages compute what a float64 run does."""

from __future__ import annotations

from pathlib import Path

import pytest

from archc.verification.packages import check_package
from tests.support import compile_model

SPECS = Path(__file__).parent
MODELS = (
    "rotating_states",
    "streams",
    "pairs",
    "retrieval",
    "reward",
    "classifier",
    "weighted",
    "both_ways",
    "ahead",
)


@pytest.mark.parametrize("model", MODELS)
def test_a_spec_is_all_that_they_need(model: str) -> None:
    """`Model` and `Reference`: logits, through the cache, padded, gradients, checkpoints."""
    spec = next(path for path in SPECS.glob("*.arch") if f"model {model} =" in path.read_text())
    outcomes = list(check_package(compile_model(spec, model)))
    assert outcomes
    assert [outcome for outcome in outcomes if not outcome.holds] == []


def test_every_model_is_tested() -> None:
    text = "".join(path.read_text() for path in SPECS.glob("*.arch"))
    assert text.count("\nmodel ") == len(MODELS)
