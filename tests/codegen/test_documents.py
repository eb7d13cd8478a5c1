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


SPEC = """
arch Looking(d = 12) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 160, d) as embed
    for i in 0..2 as layers {
      x = x + tanh(linear(LOOK, d) as o_proj)
    }
    return linear(x, 160) as head
  }
}
model looking = Looking()
"""
# Of what looks at other tokens here no kernel takes documents apart: the whole model does.
WHOLE = SPEC.replace("LOOK", "reversed(x)")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return build(SPECS / "llama3.arch", "llama3_tiny", tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return build(WHOLE, "looking", tmp_path_factory.mktemp("whole"))


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
        (SPECS / "llama3.arch", "llama3_tiny"),
        (SPECS / "gpt2.arch", "gpt2_tiny"),  # a table of positions
        (SPECS / "bloom.arch", "bloom_tiny"),  # slopes
        (SPECS / "gemma2.arch", "gemma2_tiny"),  # windows and soft caps
        (SPECS / "deepseek_v3.arch", "deepseek_v3_tiny"),  # latents
        (SPECS / "qwen3_next.arch", "qwen3_next_tiny"),  # convolutions and linear attention
        (WHOLE, "looking"),
    ],
)
def test_the_loss_and_gradients_are_those_of_documents_alone(
    spec: Path | str, name: str, kind: str, tmp_path: Path
) -> None:
    model = getattr(build(spec, name, tmp_path), kind)(dtype=torch.float64)
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


@pytest.mark.parametrize(
    ("look", "stays"),
    [
        ("shifted(x) * x", True),
        ("x * cast_like(unsqueeze(upcast(positions(x)) + 1.0), x)", True),  # a number for each token
        ("later(x, 1)", False),
        (
            "merge_heads(rotate(split_heads(x, 2), rope(9, scaling = dynamic(factor = 3, original = 2))))",
            False,
        ),
    ],
)
def test_documents_stay_in_a_row_where_what_looks_at_others_takes_them_apart(
    look: str, stays: bool, tmp_path: Path
) -> None:
    package = build(SPEC.replace("LOOK", look), "looking", tmp_path)
    assert hasattr(package.model, "packed_span") == stays
    model = package.Model(dtype=torch.float64)
    scramble(model)
    tokens, documents = packed()
    together = model(tokens, documents=documents)
    for row, place in pieces():
        assert distance(together[row : row + 1, place], model(tokens[row : row + 1, place])) < 1e-12


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


def test_layers_run_once_and_attention_for_documents_of_like_lengths(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row of it is twice as long as its document."""
    model = package.Model()
    layers, shapes = [], []
    model.layers[0].register_forward_pre_hook(lambda _, given: layers.append(tuple(given[0].shape[:2])))
    real = package.kernels._attention_piece
    monkeypatch.setattr(
        package.kernels,
        "_attention_piece",
        lambda q, *rest: shapes.append(tuple(q.shape[:2])) or real(q, *rest),
    )
    tokens, documents = packed()
    model(tokens, documents=documents)
    assert layers == [(2, 16)]
    assert set(shapes) == {(2, 1), (2, 3), (4, 7)}


def test_a_model_that_looks_at_others_in_another_way_has_no_row_twice_as_long(
    whole: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = whole.Model()
    shapes = []
    real = whole.model.spans
    monkeypatch.setattr(
        whole.model, "spans", lambda x, *rest: shapes.append(tuple(x.shape)) or real(x, *rest)
    )
    tokens, documents = packed()
    model(tokens, documents=documents)
    assert sorted(shapes) == [(2, 1), (2, 3), (4, 7)]


def test_processes_that_share_weights_compute_it_as_often(
    whole: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one has a document of more than 8 tokens; test_sharded.py has two processes."""
    model = whole.Model(dtype=torch.float64)
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
