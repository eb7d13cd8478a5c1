"""Documents that share a row: each is computed as in a row by itself."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tests.support import SPECS, build, distance, scramble

both = pytest.mark.parametrize("kind", ["Model", "Reference"])
LENGTHS = (5, 1, 7, 3)  # of which two are computed together
NUMBERS = (4, 0, 4, 9)  # a number that comes again is another document's


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return build(SPECS / "llama3.arch", "llama3_tiny", tmp_path_factory.mktemp("documents"))


def packed() -> tuple[Tensor, Tensor]:
    """Tokens [2, 16] and their documents; those of the rows lie differently."""
    numbers = torch.tensor(NUMBERS).repeat_interleave(torch.tensor(LENGTHS))
    tokens = torch.randint(160, (2, len(numbers)), generator=torch.Generator().manual_seed(0))
    return tokens, torch.stack([numbers, numbers.flip(0)])


def pieces() -> list[tuple[int, slice]]:
    """Where documents lie: their rows and places."""
    found = []
    for row, lengths in enumerate((LENGTHS, LENGTHS[::-1])):
        start = 0
        for length in lengths:
            found.append((row, slice(start, start + length)))
            start += length
    return found


@both
@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("llama3", "llama3_tiny"),
        ("gpt2", "gpt2_tiny"),  # a table of positions
        ("bloom", "bloom_tiny"),  # slopes
        ("gemma2", "gemma2_tiny"),  # windows and soft caps
        ("deepseek_v3", "deepseek_v3_tiny"),  # latents
        ("qwen3_next", "qwen3_next_tiny"),  # convolutions and linear attention
    ],
)
def test_the_loss_and_gradients_are_those_of_documents_alone(
    spec: str, name: str, kind: str, tmp_path: Path
) -> None:
    model = getattr(build(SPECS / f"{spec}.arch", name, tmp_path), kind)(dtype=torch.float64)
    scramble(model)
    tokens, documents = packed()
    loss = model.loss(tokens, tokens, documents=documents)
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    scores = model.log_probs(tokens, documents=documents)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row, place in pieces():
        alone = tokens[row : row + 1, place]
        last = place.stop - 1
        if alone.shape[1] > 1:
            total = total + model.loss(alone, alone) * (alone.shape[1] - 1)
            count += alone.shape[1] - 1
            own = scores[row : row + 1, place.start : last]
            assert distance(own, model.log_probs(alone)) < 1e-12
        if last < scores.shape[1]:
            assert scores[row, last] == 0  # another document comes next
    (total / count).backward()
    assert distance(loss, total / count) < 1e-12
    for n, p in model.named_parameters():
        if n in gradients:
            assert distance(gradients[n], p.grad) < 1e-10, n


@both
def test_what_documents_do_not_go_with(package: ModuleType, kind: str) -> None:
    model = getattr(package, kind)()
    tokens, documents = packed()
    with pytest.raises(ValueError, match="documents go without padding"):
        model(tokens, documents=documents, padding=documents > 0)
    with torch.no_grad(), pytest.raises(ValueError, match=r"documents .* without a cache"):
        model(tokens, documents=documents, cache=model.new_cache(2, 16))
    with pytest.raises(ValueError, match=r"documents must be int64 \[2, 16\], not int64 \[2, 15\]"):
        model.loss(tokens, tokens, documents=documents[:, 1:])
    with pytest.raises(ValueError, match="documents cannot be exported"):
        torch.export.export(model, (tokens,), {"documents": documents})


@both
def test_terms_of_the_loss_are_of_all_documents(kind: str, tmp_path: Path) -> None:
    package = build(SPECS / "qwen3_moe.arch", "qwen3_moe_tiny", tmp_path, {"balance": "0.1"})
    model = getattr(package, kind)(dtype=torch.float64)
    scramble(model)
    tokens, documents = packed()
    alone = [tokens[piece] for piece in pieces()]
    rows = pad_sequence(alone, batch_first=True)
    labels = pad_sequence(alone, batch_first=True, padding_value=-100)
    truth = model.loss(rows, labels, padding=labels >= 0, apart=True)
    terms = model.loss(tokens, tokens, documents=documents, apart=True)
    assert len(terms) > 1
    assert all(distance(terms[name], truth[name]) < 1e-12 for name in truth)


def test_no_row_is_twice_as_long_as_its_document(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = package.Model()
    shapes = []
    real = package.model.spans
    monkeypatch.setattr(
        package.model, "spans", lambda x, *rest: shapes.append(tuple(x.shape)) or real(x, *rest)
    )
    tokens, documents = packed()
    model(tokens, documents=documents)
    assert sorted(shapes) == [(2, 1), (2, 3), (4, 7)]


def test_processes_that_share_weights_compute_as_often(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one has a document of more than 8 tokens; test_sharded.py has two processes."""
    model = package.Model(dtype=torch.float64)
    tokens, documents = packed()
    alone, lengths = model(tokens, documents=documents), []
    model.layers[0].o_proj.device_mesh = SimpleNamespace(get_all_groups=lambda: ["all"])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda found, *_: found[4].fill_(1))
    model.layers[0].register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    assert distance(model(tokens, documents=documents), alone) < 1e-12
    assert lengths == [1, 3, 7, 1]


@both
def test_no_tokens_are_no_documents(package: ModuleType, kind: str) -> None:
    none = torch.zeros(2, 0, dtype=torch.int64)
    assert getattr(package, kind)()(none, documents=none).shape == (2, 0, 160)
