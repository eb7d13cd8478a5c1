"""Models that take more than tokens, or say something else than logits: in pieces, and as writers."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from archc.verification.packages import stored_tensors
from tests.architectures.test_architectures import SPECS
from tests.random_specs.checks import compiled, roads
from tests.random_specs.ragged import ragged
from tests.support import build, distance, scramble

MODELS = ("axes", "codebooks", "observed", "spoken")
NAMES = """
arch Names(d = 16, heads = 2) {
  forward(labels: [B, T], seed: float[B, d], weights: float[B, T, 3]) {
    x = embedding(labels, 30, d) as words + linear(weights, d) as weights + transpose(unsqueeze(seed))
    q, k, v = split(split_heads(linear(x, 3 * d) as qkv, heads), 3)
    return linear(x + merge_heads(attention(q, k, v, causal)), 30) as head
  }
}
model names = Names()
"""
RULES = """
arch Rules(d = 16, heads = 2) {
  forward(tokens: [B, T], kinds: [B, T] = 4 - kinds, seen: float[B, T, 3] = 0.5 * seen, bias: float[B, 30]) {
    x = (embedding(tokens, 30, d) as words) + (embedding(kinds, 5, d) as kinds) + (linear(seen, d) as seen)
    q, k, v = split(split_heads(linear(x, 3 * d) as qkv, heads), 3)
    return linear(x + merge_heads(attention(q, k, v, causal)), 30) as head + transpose(unsqueeze(bias))
  }
}
model rules = Rules()
"""
MEAN = """
arch Mean(d = 16) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 30, d) as words
    return linear(x + cast_like(transpose(unsqueeze(token_mean(x, over = sequence))), x), 30) as head
  }
}
model mean = Mean()
"""


def made(name: str, folder: Path) -> Any:
    model = build(SPECS / f"{name}.arch", name, folder).Model(dtype=torch.float64)
    scramble(model)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_pieces_are_the_whole(name: str) -> None:
    """In float32, bfloat16 and, for ragged batches, float64; with all state on the device, too."""
    text = (SPECS / f"{name}.arch").read_text()
    assert [*roads(text), *ragged(compiled(text))] == []


def test_no_cache_for_what_reads_all_tokens(tmp_path: Path) -> None:
    model = build(MEAN, "mean", tmp_path).Model()
    assert not hasattr(model, "new_cache")


def test_what_generates(tmp_path: Path) -> None:
    """Where no tokens come out there is a cache, but no `generate`."""
    generates = {name: hasattr(made(name, tmp_path), "generate") for name in MODELS}
    assert generates == {"axes": True, "codebooks": True, "observed": False, "spoken": True}


def test_no_tokens_are_written_where_nothing_says_what_comes_with_them(tmp_path: Path) -> None:
    text = (SPECS / "axes.arch").read_text().replace(" = places + 1", "")
    model = build(text, "axes", tmp_path).Model()
    assert hasattr(model, "new_cache")
    assert not hasattr(model, "generate")
    told = [remark.text for remark in compiled(text).report.remarks if remark.pass_name == "cache"]
    assert "no default says what comes with a token to come: `places`" in told[-1]


@torch.no_grad()
def test_a_copy_of_a_cache_has_the_vectors_of_its_sequences(tmp_path: Path) -> None:
    model, rows = build(NAMES, "names", tmp_path).Model(dtype=torch.float64), torch.tensor([1, 1, 0])
    scramble(model)
    labels, seed = torch.randint(30, (2, 6)), torch.randn(2, 16, dtype=torch.float64)
    weights, cache = torch.randn(2, 6, 3, dtype=torch.float64), model.new_cache(2, 6)
    model(labels[:, :4], seed, weights[:, :4], cache=cache)
    found = model(labels[rows, 4:], None, weights[rows, 4:], cache=cache.take(rows))
    assert distance(found, model(labels, seed, weights)[rows, 4:]) < 1e-12


@torch.no_grad()
def test_a_vector_of_each_sequence_goes_through_all_steps(tmp_path: Path) -> None:
    """As it does without a cache, and for texts of two lengths, padded, as for each alone."""
    model = made("spoken", tmp_path)
    text, speaker = torch.randint(30, (2, 6)), torch.randn(2, 7, dtype=torch.float64)
    codes = torch.full((2, 1), 3)
    for _ in range(5):
        codes = torch.cat([codes, model(text, speaker, codes)[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(text, speaker, 5), codes)
    real = torch.ones(2, 6, dtype=torch.bool)
    real[1, :2] = False
    found = model.generate(text, speaker, 5, padding=real)
    assert torch.equal(found[:1], codes[:1])
    assert torch.equal(found[1:], model.generate(text[1:, 2:], speaker[1:], 5))
    assert not torch.equal(model.generate(text, speaker.flip(0), 5), codes)


@torch.no_grad()
def test_what_a_cache_has_not_seen_is_asked_for(tmp_path: Path) -> None:
    model, speaker = made("spoken", tmp_path), torch.randn(2, 7, dtype=torch.float64)
    text, codes, cache = torch.randint(30, (2, 6)), torch.randint(40, (2, 3)), model.new_cache(2, 4)
    for given in (None, cache):
        with pytest.raises(ValueError, match="speaker must be given, unless the cache has already seen it"):
            model(text, None, codes, cache=given)
    with pytest.raises(ValueError, match="text must be given"):
        model(None, speaker, codes, cache=cache)
    whole = model(text, speaker, codes)
    model(text, speaker, codes[:, :2], cache=cache)
    assert distance(model(None, None, codes[:, 2:], cache=cache), whole[:, 2:]) < 1e-12


@torch.no_grad()
def test_frames_come_with_their_tokens(tmp_path: Path) -> None:
    model = made("observed", tmp_path)
    actions, aim = torch.randint(20, (2, 3)), torch.randn(2, dtype=torch.float64)
    frames = torch.randn(2, 4, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"frames must be .* \[2, 3, 5\], not float64 \[2, 4, 5\]"):
        model(actions, aim, frames, cache=model.new_cache(2, 4))


@torch.no_grad()
def test_what_is_given_of_pairs_is_added_to_scores(tmp_path: Path) -> None:
    """Token by token as the model says it, with the parameters that it has; other shapes are refused."""
    model = made("given_pairs", tmp_path)
    tokens, hidden, steps = torch.randint(50, (2, 7)), torch.rand(2, 7, 7) < 0.3, torch.randint(5, (2, 7, 7))
    hidden &= ~torch.eye(7, dtype=torch.bool)  # each token sees itself
    about, weights = torch.randn(2, 7, 7, 6, dtype=torch.float64), dict(stored_tensors(model))
    x = weights["embed.weight"][tokens]
    for layer in ("layers.0", "layers.1"):
        normed = functional.rms_norm(x, (24,), weights[f"{layer}.norm.weight"], 1e-6)
        q, k, v = (normed @ weights[f"{layer}.qkv.weight"].T).view(2, 7, 4, 18).chunk(3, -1)
        given = [weights[f"{layer}.pair_norm.{name}"] for name in ("weight", "bias")]
        own = functional.layer_norm(about, (6,), *given, 1e-5) @ weights[f"{layer}.pairs.weight"].T
        scores = torch.einsum("bthd, bshd -> btsh", q, k) * 6**-0.5 + own + weights["distances"][steps]
        shares = scores.masked_fill(hidden[..., None], -torch.inf).softmax(2)
        o = torch.einsum("btsh, bshd -> bthd", shares, v).flatten(2)
        x = x + o @ weights[f"{layer}.out.weight"].T
    assert distance(model(tokens, hidden, steps, about), x @ weights["head.weight"].T) < 1e-12
    assert "documents" not in inspect.signature(model.forward).parameters
    with pytest.raises(ValueError, match=r"hidden must be bool \[2, 7, 7\], not bool \[2, 7, 6\]"):
        model(tokens, hidden[..., :6], steps, about)


def test_inputs_may_have_the_names_of_arguments(tmp_path: Path) -> None:
    model = build(NAMES, "names", tmp_path).Model(dtype=torch.float64)
    tokens, seed = torch.randint(30, (2, 5)), torch.randn(2, 16, dtype=torch.float64)
    loss = model.loss(tokens, seed, torch.randn(2, 5, 3, dtype=torch.float64), tokens, weights=tokens + 1)
    assert bool(torch.isfinite(loss))
    assert [*inspect.signature(model.loss).parameters][:4] == ["labels_", "seed_", "weights_", "labels"]


def without_cache(model: Any, given: list[torch.Tensor], count: int) -> torch.Tensor:
    """The likeliest tokens, and what comes with each made of what comes with the one before."""
    tokens, kinds, frames, bias = given
    for _ in range(count):
        tokens = torch.cat([tokens, model(tokens, kinds, frames, bias)[:, -1:].argmax(-1)], 1)
        kinds = torch.cat([kinds, 4 - kinds[:, -1:]], 1)
        frames = torch.cat([frames, 0.5 * frames[:, -1:]], 1)
    return tokens


@torch.no_grad()
def test_what_comes_with_written_tokens_follows_from_the_last(tmp_path: Path) -> None:
    """Of each sequence's last token that is none of padding; what was given stays as it was."""
    model = build(RULES, "rules", tmp_path).Model(dtype=torch.float64)
    scramble(model)
    given = [torch.randint(30, (2, 6)), torch.randint(5, (2, 6)), torch.randn(2, 6, 3), torch.randn(2, 30)]
    given = [each.double() if each.is_floating_point() else each for each in given]
    kept = [each.clone() for each in given]
    expected = without_cache(model, given, 5)
    assert torch.equal(model.generate(*given, max_new_tokens=5), expected)
    real = torch.ones(2, 6, dtype=torch.bool)
    real[1, 4:] = False
    found = model.generate(*given, max_new_tokens=5, padding=real)
    alone = without_cache(model, [*(each[1:, :4] for each in given[:3]), given[3][1:]], 5)
    assert torch.equal(found[:1], expected[:1])
    assert torch.equal(found[1:, 6:], alone[:, 4:])
    assert all(map(torch.equal, given, kept))
