"""Random specs hold: a few in the default suite, as many as one likes with `make fuzz`.

A seed that fails is printed with its spec and with what is off.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.codegen.interpreter import interpreted
from tests.random_specs.checks import commands, compiled, roads, verified
from tests.random_specs.models import random_spec
from tests.random_specs.ragged import ragged
from tests.support import needs_compiler

FEW = (70, 27, 93)  # small ones

# Each is in some of the specs, however the generator changes.
WORDS = """
rms_norm layer_norm offset cast GatedMLP split_interleaved layout softcap sinks bias scale alibi_bias
relative_bias sliding chunked full rotate interleaved yarn llama3 dynamic linear_scaling expand_heads experts
apart group_mask gather within_capacity top_k shifted CausalConv sinusoid scaled tied_to block loss none
concat absolute tanh jitter wide extra prefix decoder_tokens hidden states note
linear_attention log_decay beta erase renew reads upcast fuse joined stacking expert_ sampled drop_crowded
longrope sight running_maximum GroupConv first chosen_keys among head_linear whole_quotient frames
attention_scores masked weighted_values sum_so_far pairs distance_bias step linear_recurrence matmul transpose
erf sqrt cos mean reversed later first_token last_token scan preceded best_keys attention_total combined steps
key_bias query_bias pair_bias key_distance_bias table_bias by_query hide_keys clamp stop_gradient exclusive_or
whole_table whole( Conv( token_mean kinds places style codes ahead again rotate_by
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "many" in metafunc.fixturenames:
        first, _, last = metafunc.config.getoption("--seeds").partition(":")
        metafunc.parametrize("many", range(int(first), int(last or int(first) + 1)))


def none_off(seed: int, found: list[str]) -> None:
    assert not found, "\n".join([f"seed {seed}:", random_spec(seed), *found])


def test_a_seed_always_gives_the_same_spec() -> None:
    assert random_spec(7) == random_spec(7) != random_spec(8)


def test_specs_have_all_there_is() -> None:
    specs = "".join(random_spec(seed) for seed in range(300))
    assert [word for word in WORDS.split() if word not in specs] == []


@pytest.mark.parametrize("seed", FEW)
def test_a_spec_holds(seed: int) -> None:
    spec = random_spec(seed)
    none_off(seed, [*verified(spec, each_pass=False), *commands(spec)])


def test_roads_of_a_spec_hold() -> None:
    spec = random_spec(FEW[0])
    none_off(FEW[0], [*roads(spec), *ragged(compiled(spec))])


@pytest.mark.slow
def test_many_specs_hold(many: int) -> None:
    spec = random_spec(many)
    none_off(many, [*verified(spec, each_pass=True), *commands(spec), *roads(spec), *ragged(compiled(spec))])


@pytest.mark.slow
@needs_compiler
def test_native_code_of_many_specs_holds(many: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    none_off(many, list(roads(random_spec(many), natively=True)))


@pytest.mark.slow
@interpreted
def test_kernels_of_many_specs_hold(many: int) -> None:
    none_off(many, list(roads(random_spec(many))))
