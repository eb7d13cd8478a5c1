"""Published architectures that transformers lacks, as specs: packages compute what a float64 run does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from archc.verification.packages import check_package
from tests.support import build, compile_model, scramble

SPECS = Path(__file__).parent
DECODERS = (
    "again",
    "ahead",
    "axes",
    "blocks",
    "codebooks",
    "delta_product",
    "filters",
    "gru",
    "in_front",
    "joined",
    "judged",
    "lookups",
    "lstm",
    "megabyte",
    "observed",
    "pairs",
    "parler",
    "patched",
    "retrieval",
    "retro",
    "rotating_states",
    "rwkv7",
    "slstm",
    "smoothed",
    "spoken",
    "streams",
    "titans",
    "weighted",
)
OTHERS = (
    "both_ways",
    "classifier",
    "foreseen",
    "funnel",
    "given_pairs",
    "patches",
    "reward",
)  # which say something else than what comes next


@pytest.mark.parametrize("model", [*DECODERS, *OTHERS])
def test_a_spec_is_all_that_they_need(model: str) -> None:
    """`Model` and `Reference`: logits, through the cache, padded, gradients, checkpoints."""
    spec = next(path for path in SPECS.glob("*.arch") if f"model {model} =" in path.read_text())
    outcomes = list(check_package(compile_model(spec, model)))
    assert [outcome for outcome in outcomes if not outcome.holds] == []
    cached = {outcome.subject for outcome in outcomes if outcome.check == "cache"}
    assert cached == ({"Model", "Reference"} if model in DECODERS else set())


@torch.no_grad()
def test_a_shorter_sequence_has_means_of_neighbours(tmp_path: Path) -> None:
    """Layers that add nothing leave the tokens, their means, and the mean that each token reads."""
    model = build(SPECS / "funnel.arch", "funnel", tmp_path).Model(dtype=torch.float64)
    scramble(model)
    for name, parameter in model.named_parameters():
        if name.endswith("out"):
            parameter.zero_()
    tokens, means = torch.randint(50, (2, 8)), torch.zeros(2, 3, dtype=torch.int64)
    x = model.embed[tokens]
    parts = [part.mean(1, keepdim=True).expand_as(part) for part in x.split(3, 1)]
    expected = (x + torch.cat(parts, 1) + model.means) @ model.head_.T
    torch.testing.assert_close(model(means, tokens), expected)


def test_learned_tokens_are_tokens_in_front(tmp_path: Path) -> None:
    """Those that are the embeddings of three tokens are these tokens: padded and generated from, too."""
    spec, front = SPECS / "in_front.arch", torch.tensor([7, 8, 9])
    package = build(spec, "in_front", tmp_path / "learned")
    learned = package.Model(dtype=torch.float64)
    given = build(spec, "in_front", tmp_path / "given", {"learned": "0"}).Model(dtype=torch.float64)
    scramble(learned)
    weights = learned.state_dict()
    with torch.no_grad():
        learned.memory_tokens.copy_(learned.embed[front])
    given.load_state_dict({name: weights[name] for name in given.state_dict()})
    tokens = torch.randint(50, (2, 9))
    longer = torch.cat([front.expand(2, -1), tokens], 1)
    real = torch.ones(2, 9, dtype=torch.bool)
    real[1, :4] = False
    torch.testing.assert_close(learned(tokens), given(longer)[:, 3:])
    torch.testing.assert_close(learned.loss(tokens, tokens), _loss_after(given(longer)[:, 3:], tokens))
    alone = given(longer[1:, [0, 1, 2, *range(7, 12)]])[:, 3:]
    torch.testing.assert_close(learned(tokens, padding=real)[1:, 4:], alone)
    lengths = {"tokens": {1: torch.export.Dim("length", min=4, max=64)}}
    exported = torch.export.export(learned, (longer,), dynamic_shapes=lengths).module()
    torch.testing.assert_close(exported(tokens), learned(tokens))
    runtime = package.runtime
    _, places = runtime.with_front(3, real, tokens + 1)
    assert (places[:, :7] == 0).tolist() == [[True] * 3 + [False] * 4, [True] * 3 + [False] + [True] * 3]
    found = learned.generate(tokens, 6, padding=real)
    assert torch.equal(found[0, 9:], given.generate(longer[:1], 6)[0, 12:])
    assert torch.equal(found[1, 9:], given.generate(longer[1:, [0, 1, 2, *range(7, 12)]], 6)[0, 8:])


@pytest.mark.parametrize("kind", ["Model", "Reference"])
def test_without_logits_the_loss_is_the_terms_of_the_spec(kind: str, tmp_path: Path) -> None:
    """What is not trained has no gradient of it; padding counts for nothing."""
    model = getattr(build(SPECS / "foreseen.arch", "foreseen", tmp_path), kind)(dtype=torch.float64)
    scramble(model)
    patches, hidden = torch.randn(2, 9, 12, dtype=torch.float64), torch.ones(2, 9, 1, dtype=torch.float64)
    real = torch.ones(2, 9, dtype=torch.bool)
    real[:, 6:] = False
    loss = model.loss(patches, hidden, padding=real)
    torch.testing.assert_close(loss, model.loss(patches[:, :6], hidden[:, :6]))
    terms = model.loss(patches, hidden, padding=real, apart=True)
    assert list(terms) == ["apart", "large"]
    torch.testing.assert_close(loss, terms["apart"] + terms["large"])
    loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if not name.startswith("target")}


def _loss_after(logits: Tensor, tokens: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def test_every_model_is_tested() -> None:
    text = "".join(path.read_text() for path in SPECS.glob("*.arch"))
    assert text.count("\nmodel ") == len(DECODERS) + len(OTHERS)
