"""Logits that are not the only result, of several codebooks, or of no table's rows: losses and generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.architectures.test_architectures import SPECS
from tests.random_specs.checks import compiled
from tests.support import build, distance, scramble

BOOKS, VOCAB, END = 3, 20, 20
BYTES = """
arch Bytes(d = 16, vocab = 24) {
  forward(tokens: [B, T]) {
    x = embedding(tokens + 1, vocab + 1, d) as words
    x = x + shifted(x)
    share = softmax(upcast(linear(x, 2) as share))
    parts = softmax(upcast(split_heads(linear(x, 2 * vocab) as parts, 2)))
    return NAME log(squeeze(matmul(transpose(parts), unsqueeze(share)))), x
  }
}
model bytes = Bytes()
"""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build(SPECS / "judged.arch", "judged", tmp_path_factory.mktemp("judged"))


@pytest.fixture(scope="module")
def parler(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build(SPECS / "parler.arch", "parler", tmp_path_factory.mktemp("parler"))


def made(package: Any, kind: str = "Model") -> Any:
    model = getattr(package, kind)(dtype=torch.float64)
    scramble(model)
    return model


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over all labels that count, each of the next token."""
    return F.cross_entropy(logits[:, :-1].flatten(0, -2), labels[:, 1:].flatten())


@pytest.mark.parametrize("kind", ["Model", "Reference"])
def test_other_results_are_left_aside(judged: Any, kind: str) -> None:
    model, tokens = made(judged, kind), torch.randint(30, (2, 9))
    value, logits, h = model(tokens)
    assert value.shape == (2, 9, 1)
    assert h.shape == (2, 9, 24)
    terms = model.loss(tokens, tokens, apart=True)
    assert list(terms) == ["cross_entropy", "size"]
    assert distance(terms["cross_entropy"], cross_entropy(logits, tokens)) < 1e-12
    expected = -cross_entropy(logits[:1, 3:5], tokens[:1, 3:5])
    assert distance(model.log_probs(tokens)[0, 3], expected) < 1e-12
    written = tokens
    for _ in range(4):
        written = torch.cat([written, model(written)[1][:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(tokens, 4), written)


def spoken(model: Any, text: Tensor, codes: Tensor, count: int, padding: Tensor | None = None) -> Tensor:
    """The likeliest number of each codebook, token by token and without a cache."""
    for _ in range(count):
        logits = model(text, codes, padding=padding)
        codes = torch.cat([codes, logits[:, -1:].argmax(-1)], 1)
    return codes


@pytest.mark.parametrize("kind", ["Model", "Reference"])
@torch.no_grad()
def test_tokens_of_several_numbers(parler: Any, kind: str) -> None:
    model = made(parler, kind)
    text, codes = torch.randint(30, (2, 5)), torch.randint(VOCAB, (2, 7, BOOKS))
    logits, labels = model(text, codes), codes.clone()
    labels[0, 4:, 1] = labels[1, 3] = -100
    assert distance(model.loss(text, codes, labels), cross_entropy(logits, labels)) < 1e-12
    found = model.log_probs(text, codes)
    assert found.shape == (2, 6, BOOKS)
    assert distance(found[1, 2, 2], -cross_entropy(logits[1:, 2:4, 2], codes[1:, 2:4, 2])) < 1e-12
    start = torch.full((2, 1, BOOKS), END)
    assert torch.equal(model.generate(text, 5), spoken(model, text, start, 5))
    real = torch.ones(2, 7, dtype=torch.bool)
    real[1, 5:] = False
    written = model.generate(text, 4, codes=codes, codes_padding=real)
    assert torch.equal(written[:1], spoken(model, text[:1], codes[:1], 4))
    assert torch.equal(written[1:, 7:], spoken(model, text[1:], codes[1:, :5], 4)[:, 5:])
    drawn = [model.generate(text, 5, temperature=2.0, top_p=0.9, seed=1) for _ in range(2)]
    assert torch.equal(*drawn)


@torch.no_grad()
def test_a_token_ends_a_sequence_with_all_its_numbers(parler: Any) -> None:
    """A single one of them does not; what has ended is filled up, until the last sequence has."""
    model, text = made(parler), torch.randint(30, (2, 5))
    script = torch.randint(VOCAB, (2, 6, BOOKS))
    script[:, 1, 0] = script[0, 3] = script[1, 4] = END

    def head(_: Tensor) -> Tensor:
        return F.one_hot(script[:, model.cache.length - 1], VOCAB + 1)[:, None].double()

    new_cache = model.new_cache

    def keep(*sizes: int) -> Any:
        model.cache = new_cache(*sizes)
        return model.cache

    model.new_cache, model.head = keep, head
    found = model.generate(text, 6, eos=[END])
    script[0, 4] = END
    assert torch.equal(found[:, 1:], script[:, :5])


def test_labels_have_a_number_of_each_book(parler: Any) -> None:
    model, text = made(parler), torch.randint(30, (2, 5))
    codes = torch.randint(VOCAB, (2, 7, BOOKS))
    with pytest.raises(ValueError, match=r"labels must be int64 \[2, 7, 3\], not int64 \[2, 7\]"):
        model.loss(text, codes, codes[..., 0])
    with pytest.raises(ValueError, match="labels must be from 0 to 20, or -100 where none counts, not 21"):
        model.loss(text, codes, codes + 21 - codes[0, 0, 0])
    with pytest.raises(ValueError, match=r"codes must be int64 \[2, T, 3\], not int64 \[2, 7\]"):
        model.loss(text, codes[..., 0], codes)


def test_what_is_called_logits_needs_no_table(tmp_path: Path) -> None:
    """A mixture of softmaxes over tokens that are looked up one row further on."""
    text = BYTES.replace("NAME", "")
    told = [remark.text for remark in compiled(text).report.remarks if remark.pass_name == "cache"]
    expected = "no result of the model is logits over its tokens; if one is, write `return logits = ...`"
    assert expected in told[-1]
    model = made(build(BYTES.replace("NAME", "logits ="), "bytes", tmp_path))
    tokens = torch.randint(24, (2, 6))
    assert distance(model.loss(tokens, tokens), cross_entropy(model(tokens)[0], tokens)) < 1e-12
    assert model.generate(tokens, 3).shape == (2, 9)
