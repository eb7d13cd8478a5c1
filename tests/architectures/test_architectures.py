"""Published architectures that transformers lacks, as specs: packages compute what a float64 run does."""

from __future__ import annotations

from pathlib import Path

import pytest

from archc.verification.packages import check_package
from tests.support import compile_model

SPECS = Path(__file__).parent
DECODERS = (
    "ahead",
    "blocks",
    "gru",
    "joined",
    "lstm",
    "pairs",
    "retrieval",
    "rotating_states",
    "slstm",
    "streams",
    "titans",
    "weighted",
)
OTHERS = ("both_ways", "classifier", "reward")  # which say something else than what comes next


@pytest.mark.parametrize("model", [*DECODERS, *OTHERS])
def test_a_spec_is_all_that_they_need(model: str) -> None:
    """`Model` and `Reference`: logits, through the cache, padded, gradients, checkpoints."""
    spec = next(path for path in SPECS.glob("*.arch") if f"model {model} =" in path.read_text())
    outcomes = list(check_package(compile_model(spec, model)))
    assert [outcome for outcome in outcomes if not outcome.holds] == []
    cached = {outcome.subject for outcome in outcomes if outcome.check == "cache"}
    assert cached == ({"Model", "Reference"} if model in DECODERS else set())


def test_every_model_is_tested() -> None:
    text = "".join(path.read_text() for path in SPECS.glob("*.arch"))
    assert text.count("\nmodel ") == len(DECODERS) + len(OTHERS)
