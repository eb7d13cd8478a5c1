"""Inputs that are not called tokens, frames in place of tokens, logits over a part of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc import inspection
from tests.support import build, distance, scramble

CAPTIONS = """
arch Captions(d = 16, heads = 2) {
  forward(frames: float[B, N, 5], words: [B, T]START) {
    seen = linear(frames, d) as seen
    x = embedding(words, 33, d) as words
    for i in 0..2 as layers {
      q, k, v = split(split_heads(linear(x, 3 * d) as qkv, heads), 3)
      x = x + linear(merge_heads(attention(q, k, v, causal)), d) as o
      k, v = split(split_heads(linear(seen, 2 * d) as kv, heads), 2)
      x = x + linear(merge_heads(attention(split_heads(linear(x, d) as q, heads), k, v, full)), d) as crossed
    }
    return logits = linear(x, 30) as head
  }
}
model captions = Captions()
"""
DECODER = """
arch Decoder(d = 16, heads = 2) {
  forward(ids: [B, T]) {
    x = embedding(ids, 30, d) as words
    q, k, v = split(split_heads(linear(x, 3 * d) as qkv, heads), 3)
    return linear(x + merge_heads(attention(q, k, v, causal)), 30) as head
  }
}
model decoder = Decoder()
"""
kinds = pytest.mark.parametrize("kind", ["Model", "Reference"])


def made(spec: str, name: str, kind: str, folder: Path) -> Any:
    model = getattr(build(spec, name, folder), kind)(dtype=torch.float64)
    scramble(model)
    return model


def words(length: int) -> Tensor:
    return torch.randint(30, (2, length), generator=torch.Generator().manual_seed(length))


def greedy(model: Any, given: list[Tensor], count: int) -> Tensor:
    """The likeliest tokens, without a cache."""
    *others, tokens = given
    for _ in range(count):
        tokens = torch.cat([tokens, model(*others, tokens)[:, -1:].argmax(-1)], 1)
    return tokens


@kinds
@torch.no_grad()
def test_a_decoder_of_frames_decodes(kind: str, tmp_path: Path) -> None:
    """Frames are read once; tokens of the table's last rows are read, but never predicted."""
    model = made(CAPTIONS.replace("START", ""), "captions", kind, tmp_path)
    frames, tokens = torch.randn(2, 7, 5, dtype=torch.float64), words(6)
    tokens[0, 3] = 32
    whole, cache = model(frames, tokens), model.new_cache(2, 6)
    parts = [model(frames, tokens[:, :3], cache=cache)]
    parts += [model(None, token, cache=cache) for token in tokens[:, 3:].split(1, 1)]
    assert distance(torch.cat(parts, 1), whole) < 1e-12
    found = model.generate(frames, tokens, max_new_tokens=4)
    assert torch.equal(found, greedy(model, [frames, tokens], 4))
    assert torch.isfinite(model.loss(frames, tokens, words(6)))


@torch.no_grad()
def test_a_decoder_of_frames_begins_with_the_token_of_the_spec(tmp_path: Path) -> None:
    model = made(CAPTIONS.replace("START", " = 31"), "captions", "Model", tmp_path)
    frames = torch.randn(2, 7, 5, dtype=torch.float64)
    expected = greedy(model, [frames, torch.full((2, 1), 31)], 4)
    assert torch.equal(model.generate(frames, max_new_tokens=4), expected)


@torch.no_grad()
def test_tokens_may_have_another_name(tmp_path: Path) -> None:
    model, tokens = made(DECODER, "decoder", "Model", tmp_path), words(5)
    assert torch.equal(model.generate(ids=tokens, max_new_tokens=4), greedy(model, [tokens], 4))


@torch.no_grad()
def test_an_input_that_all_sequences_share(tmp_path: Path) -> None:
    """A cache whose rows cannot be told apart from those of the input has no copies of some."""
    spec = DECODER.replace("ids: [B, T]", "ids: [B, T], table: float[5, d]").replace(
        "linear(x + merge_heads(attention(q, k, v, causal)), 30)",
        "linear(matmul(x + merge_heads(attention(q, k, v, causal)), transpose(table)), 30)",
    )
    model, tokens = made(spec, "decoder", "Model", tmp_path), words(5)
    table, cache = torch.randn(5, 16, dtype=torch.float64), model.new_cache(2, 5)
    parts = [model(tokens[:, :3], table, cache=cache), model(tokens[:, 3:], None, cache=cache)]
    assert distance(torch.cat(parts, 1), model(tokens, table)) < 1e-12
    assert not hasattr(cache, "take")


def test_logits_over_a_part_of_a_table_are_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.arch").write_text(CAPTIONS.replace("START", "").replace("logits = ", ""))
    inspection.explain(tmp_path / "spec.arch", None, "cuda", ())
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "not logits over its tokens; if they are, of the first 30 of 33, write `return logits = ...`" in told
    )
