"""Layers that take over keys and values from earlier ones: they are kept once, where they are made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from archc.verification.stages import check_stages
from tests.codegen.interpreter import interpreted
from tests.codegen.test_cache import KINDS, LENGTH, cache_bytes, made, tokens
from tests.support import build, compile_model, distance, few, scramble

SPEC = Path(__file__).parent / "shared.arch"
PAIR = 2 * 2 * 6  # a token's key and value
RING = 4
# What a cache for so many tokens holds of one sequence.
SIZES = {
    "once": lambda length: PAIR * (2 * RING + length),
    "between": lambda length: PAIR * 4 * length,
    "between_masks": lambda length: PAIR * 3 * length,
    "kinds": lambda length: PAIR * (4 * RING + length),
    "latent": lambda length: 10 * length,
    "first": lambda length: PAIR // 2 * (1 + 4) * length,
    "residual": lambda length: PAIR * 3 * length,
    "pairs": lambda length: PAIR * (1 + 2) * length,
}


@pytest.fixture(scope="module", params=SIZES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, name: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return made(request.param, SPEC, name, tmp_path_factory.mktemp(name))


def test_bytes(model: Any, name: str) -> None:
    for length in (100, 1000):
        assert cache_bytes(model.new_cache(3, length)) == 8 * 3 * SIZES[name](length)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[3, 1, 1, 4, 1, 2, 6, 1, 10], [12, *[1] * 17]], ids=["mixed", "steps"])
def test_decoding_equals_the_whole(model: Any, pieces: list[int]) -> None:
    cache = model.new_cache(2, LENGTH)
    parts = [model(piece, cache=cache) for piece in tokens().split(pieces, 1)]
    assert distance(torch.cat(parts, 1), model(tokens())) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_steps_with_all_state_on_the_device(model: Any, padded: bool) -> None:
    real = torch.ones(2, LENGTH).bool()
    real[0, :6] = not padded
    given = {"padding": real} if padded else {}
    whole = model(tokens(), **given)
    cache = model.new_cache(2, LENGTH)
    model(tokens()[:, :13], cache=cache, **{key: mask[:, :13] for key, mask in given.items()})
    cache.start_steps()
    parts = [model(token, cache=cache) for token in tokens()[:, 13:].split(1, 1)]
    assert distance(torch.cat(parts, 1), whole[:, 13:]) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize(("name", "padded"), few([("kinds", True), ("latent", False)], 1))
@interpreted
def test_steps_of_kernels(name: str, padded: bool, tmp_path: Path) -> None:
    """Keys that a layer reads besides others, and may not have made: among several programs, in rings."""
    model = build(SPEC, name, tmp_path).Model(dtype=torch.float32)
    scramble(model)
    kernels = sys.modules[f"{type(model).__module__.rpartition('.')[0]}.kernels"]
    given = {"padding": torch.arange(7) >= torch.tensor([[3], [0]])} if padded else {}
    whole = model(tokens()[:, :7], **given)
    kernels._shares = lambda *_: 4
    cache = model.new_cache(2, 9)
    model(tokens()[:, :5], cache=cache, **{key: mask[:, :5] for key, mask in given.items()})
    cache.start_steps()
    parts = [model(token, cache=cache) for token in tokens()[:, 5:7].split(1, 1)]
    assert distance(torch.cat(parts, 1), whole[:, 5:]) < 1e-5


@pytest.mark.parametrize("name", few(SIZES, 3))
def test_every_pass_keeps_the_values(name: str) -> None:
    compilation = compile_model(SPEC, name)
    outcomes = list(check_stages(compilation.program, compilation.context, each_pass=True))
    exact = [outcome for outcome in outcomes if outcome.check == "float64"]
    assert exact
    assert [outcome for outcome in exact if not outcome.holds] == []


def test_a_layer_that_takes_over_what_it_reads_is_told_so() -> None:
    told = [r.text for r in compile_model(SPEC, "kinds").report.remarks if r.pass_name == "cache"]
    taken = (
        "decoding keeps nothing of its own in each of 2 layers; near and near_v are kept by an earlier layer"
    )
    assert any(text.endswith(taken) for text in told)
