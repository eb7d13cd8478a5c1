"""Scaled rotary positions: transformers' frequencies and logits, far beyond the context of first training."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from archc.importer import import_model
from tests.interop.parity import EPS, LOGITS, both, random_tokens, save_random, sizes
from tests.support import build, distance, few

ORIGINAL = 16
TOKENS = 160  # ten times the original context
PIECES = (9, 1, 1, 20, 1, 100, 1, 27)  # the first ends within the original context

_YARN = {"rope_type": "yarn", "factor": 12.0, "original_max_position_embeddings": ORIGINAL, "beta_fast": 4.0}
_LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": ORIGINAL}

ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 8.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": _YARN,
    "yarn_of_the_contexts": {**_YARN, "factor": None},
    "yarn_not_truncated": {**_YARN, "truncate": False, "beta_slow": 0.5},
    "yarn_attention_factor": {**_YARN, "attention_factor": 1.5},
    "yarn_mscale": {**_YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
    "longrope": _LONGROPE,
    "longrope_attention_factor": {**_LONGROPE, "factor": 3.0, "attention_factor": 0.8},
}
by_name = pytest.mark.parametrize("name", ROPES)


def config_of(name: str, width: int = 8) -> LlamaConfig:
    """A small config with heads of so many values."""
    rope = {"rope_theta": 10000.0, **ROPES[name]}
    if rope["rope_type"] == "longrope":
        rope["short_factor"] = [1.0 + 0.1 * pair for pair in range(width // 2)]
        rope["long_factor"] = [1.0 + 0.35 * pair**2 for pair in range(width // 2)]
    context = ORIGINAL if name == "dynamic" else TOKENS  # which is all that tells it the original one
    given = sizes(
        hidden_size=6 * width, max_position_embeddings=context, rms_norm_eps=EPS, num_hidden_layers=2
    )
    return LlamaConfig(**given, rope_parameters=rope)


def package_of(config: LlamaConfig, folder: Path) -> ModuleType:
    config.save_pretrained(folder / "tiny")
    return build(import_model(folder / "tiny").text, "tiny", folder)


@by_name
@pytest.mark.parametrize("length", [ORIGINAL, 10 * ORIGINAL])
def test_frequencies_bit_for_bit(name: str, length: int, tmp_path: Path) -> None:
    """At position 10^6 an angle is 10^6 times as wrong as its frequency."""
    config = config_of(name, width=64)
    package = package_of(config, tmp_path)
    positions = torch.arange(length)[None]
    rotary = LlamaRotaryEmbedding(config)
    rotary(torch.zeros(1), positions)
    assert torch.equal(package.reference.rope_frequencies(positions).flatten(), rotary.inv_freq)


@pytest.mark.parametrize("name", ["default", "yarn", "longrope", "dynamic"])
def test_tables_are_exact_a_million_tokens_on(name: str, tmp_path: Path) -> None:
    config = config_of(name, width=64)
    reference = package_of(config, tmp_path).reference
    positions = torch.tensor([[0, 1, 4095, 8191, 100_001, 1_000_000]])
    frequencies = reference.rope_frequencies(positions)
    rotary = LlamaRotaryEmbedding(config)
    angles = positions[..., None].double() * frequencies.double()
    exact = [rotary.attention_scaling * table for table in (angles.cos(), angles.sin())]
    theirs = rotary(torch.zeros(1), positions)
    for ours, table, truth in zip(reference.rope_table(positions, frequencies), theirs, exact, strict=True):
        assert (ours - truth).abs().max() < 1e-7
        assert (table[:, :2, :32] - truth[:, :2]).abs().max() < 1e-6  # theirs near 0,
        assert (table[..., :32] - truth).abs().max() > 1e-3  # and far from it


Built: TypeAlias = tuple[Path, ModuleType]


@pytest.fixture(scope="module", params=few(ROPES, 6))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A random checkpoint and its package."""
    folder = tmp_path_factory.mktemp(request.param)
    save_random(config_of(request.param), folder / "tiny", spread=0.15)
    return folder / "tiny", build(import_model(folder / "tiny").text, "tiny", folder)


@both
def test_logits_far_beyond_the_original_context(built: Built, kind: str) -> None:
    folder, package = built
    model, tokens = getattr(package, kind).from_pretrained(folder), random_tokens(length=TOKENS)
    with torch.no_grad():
        assert distance(model(tokens), theirs_of(folder)(tokens).logits) < LOGITS
        assert distance(through_cache(model, tokens), through_their_cache(theirs_of(folder), tokens)) < LOGITS


@both
def test_greedy_tokens_across_the_original_context(built: Built, kind: str) -> None:
    folder, package = built
    tokens = random_tokens(length=ORIGINAL - 4)
    theirs = theirs_of(folder).generate(tokens, max_new_tokens=12, do_sample=False)
    ours = getattr(package, kind).from_pretrained(folder).generate(tokens, max_new_tokens=12)
    assert torch.equal(ours, theirs)


def theirs_of(folder: Path) -> Any:
    """The model of transformers, as new: one that has seen a long sequence scales a short one like that."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    return model


def through_cache(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits of tokens that come in pieces."""
    cache = model.new_cache(*tokens.shape)
    return torch.cat([model(piece, cache=cache) for piece in tokens.split(PIECES, 1)], 1)


def through_their_cache(model: Any, tokens: Tensor) -> Tensor:
    cache, parts = None, []
    for piece in tokens.split(PIECES, 1):
        result = model(piece, cache=cache, use_cache=True)
        cache = result.past_key_values
        parts.append(result.logits)
    return torch.cat(parts, 1)
