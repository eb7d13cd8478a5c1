"""What training adds to the loss: terms and notes of layers, held to the same written by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archc.ir.interpreter import Interpreter
from archc.verification.packages import stored_tensors
from archc.verification.verify import outcomes_of
from tests.support import SPECS, build, compile_model, distance, scramble

both = pytest.mark.parametrize("kind", ["Model", "Reference"])
VOCABULARY, D, EXPERTS, CHOICES, LAYERS = 20, 12, 5, 2, 3
EXACT = 1e-11

SPEC = """
    import std
    arch Mixture(d = 12, experts = 5, choices = 2, layers = 3) {
      block MoE(x) {
        logits = linear(x, experts) as gate
        scores = softmax(upcast(logits))
        weights, chosen = top_k(scores, choices)
        note load = token_mean(loads(chosen, scores))
        note likely = token_mean(scores)
        note unread = token_mean(square(x))
        loss z = 0.1 * token_mean(logsumexp(logits) ** 2)
        loss each = experts * sum(
          token_mean(loads(chosen, scores), over = sequence) * token_mean(scores, over = sequence),
        )
        return experts e in chosen of experts as experts {
          return weights[e] * GatedMLP(x, 8, silu)
        }
      }
      forward(tokens: [B, T]) {
        x = embedding(tokens, 20, d) as embed
        for i in 0..layers as layers {
          x = x + cast_like(MoE(rms_norm(x, 1e-6) as norm) as moe, x)
        }
        loss balance = 0.3 * (experts * sum(noted(load) * noted(likely)))
        loss far = square(linear(x, 2) as aside)
        return linear(x, 20) as head
      }
    }
    model mixture = Mixture()
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return build(SPEC, "mixture", tmp_path_factory.mktemp("losses"))


@pytest.fixture(scope="module")
def checkpoint(package: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = package.Reference(dtype=torch.float64)
    scramble(model)
    folder = tmp_path_factory.mktemp("weights")
    model.save_pretrained(folder)
    return folder


def tokens() -> Tensor:
    return torch.randint(0, VOCABULARY, (3, 11), generator=torch.Generator().manual_seed(0))


def padding() -> Tensor:
    """The second sequence begins with padding, the third ends with it."""
    real = torch.ones(3, 11, dtype=torch.bool)
    real[1, :4] = real[2, -5:] = False
    return real


def by_hand(weights: dict[str, Tensor], real: Tensor) -> dict[str, Tensor]:
    """All terms, from the definitions: loops over layers, tokens that are real picked out one by one."""
    x = F.embedding(tokens(), weights["embed.weight"])
    terms = {"z": torch.zeros((), dtype=x.dtype), "each": torch.zeros((), dtype=x.dtype)}
    loads, likely = [], []
    for i in range(LAYERS):
        own = {name.removeprefix(f"layers.{i}."): tensor for name, tensor in weights.items()}
        h = F.rms_norm(x, (D,), own["norm.weight"], eps=1e-6)
        logits = h @ own["moe.gate.weight"].T
        scores = logits.softmax(-1)
        chosen = scores.topk(CHOICES).indices
        counts = F.one_hot(chosen, EXPERTS).sum(2).double()
        loads.append(counts[real].mean(0))
        likely.append(scores[real].mean(0))
        terms["z"] = terms["z"] + 0.1 * logits[real].logsumexp(-1).square().mean()
        rows = [
            EXPERTS * (counts[b][real[b]].mean(0) * scores[b][real[b]].mean(0)).sum() for b in range(len(x))
        ]
        terms["each"] = terms["each"] + torch.stack(rows).mean()
        y = torch.zeros_like(x)
        for e in range(EXPERTS):
            gate, up, down = (own[f"moe.experts.{e}.{n}_proj.weight"] for n in ("gate", "up", "down"))
            weight = (scores * (chosen == e).any(-1, keepdim=True) * F.one_hot(torch.tensor(e), EXPERTS)).sum(
                -1
            )
            y = y + weight[..., None] * ((F.silu(h @ gate.T) * (h @ up.T)) @ down.T)
        x = x + y
    terms["balance"] = 0.3 * EXPERTS * (torch.stack(loads).mean(0) * torch.stack(likely).mean(0)).sum()
    terms["far"] = (x @ weights["aside.weight"].T).square().mean()
    return terms


@both
@pytest.mark.parametrize("padded", [False, True])
def test_terms_and_gradients_are_those_by_hand(
    package: ModuleType, checkpoint: Path, kind: str, padded: bool
) -> None:
    model = getattr(package, kind).from_pretrained(checkpoint)
    given = {"padding": padding()} if padded else {}
    terms = model.loss(tokens(), tokens(), apart=True, **given)
    own = {name: term for name, term in terms.items() if name != "cross_entropy"}
    sum(own.values()).backward()
    found = dict(stored_tensors(model, gradients=True))
    weights = {name: nn.Parameter(tensor) for name, tensor in stored_tensors(model)}
    truths = by_hand(weights, padding() if padded else torch.ones(3, 11, dtype=torch.bool))
    # What padding holds is read by `far` alone, a mean over all that it is given.
    sum(truths.values()).backward()
    assert own.keys() == truths.keys()
    for name, truth in truths.items():
        assert distance(own[name], truth) < EXACT, name
    for name, parameter in weights.items():
        if parameter.grad is not None and parameter.grad.any():
            assert distance(found[name], parameter.grad) < EXACT, name
    assert found["layers.0.moe.gate.weight"].any()


@both
def test_the_loss_is_the_sum_of_its_terms(package: ModuleType, checkpoint: Path, kind: str) -> None:
    model = getattr(package, kind).from_pretrained(checkpoint)
    terms = model.loss(tokens(), tokens(), apart=True)
    assert next(iter(terms)) == "cross_entropy"
    torch.testing.assert_close(model.loss(tokens(), tokens()), sum(terms.values()))


@both
def test_nothing_is_computed_but_for_a_loss(
    package: ModuleType, checkpoint: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = getattr(package, kind).from_pretrained(checkpoint)
    before = model(tokens())
    module = sys.modules[type(model).__module__]

    def refuse(*_: Any) -> Tensor:
        raise AssertionError("computed for nothing")

    monkeypatch.setattr(module, "loads", refuse)
    assert torch.equal(model(tokens()), before)
    model.generate(tokens(), max_new_tokens=2)
    with pytest.raises(AssertionError, match="for nothing"):
        model.loss(tokens(), tokens())


def test_losses_can_be_compiled(package: ModuleType, checkpoint: Path) -> None:
    """Of `Model`: the loop over experts of `Reference` asks how many tokens each has."""
    model = package.Model.from_pretrained(checkpoint)
    compiled = torch.compile(
        lambda given: model.loss(given, given, apart=True), fullgraph=True, backend="aot_eager"
    )
    plain = model.loss(tokens(), tokens(), apart=True)
    for name, term in compiled(tokens()).items():
        torch.testing.assert_close(term, plain[name])


def test_a_router_with_losses_is_one_kernel_still() -> None:
    """What a loss reads of the way to a choice is computed for it once more; notes that no term reads go."""
    fused = compile_model(SPEC, "mixture").fused
    (layer,) = fused.loops()[0].bodies
    assert [node.op.name for node in layer.nodes()].count("route") == 1
    (losses,) = layer.losses()
    assert losses.attributes["kinds"] == ("note", "note", "loss", "loss")
    assert all("aside" not in str(node.path) for node in fused.nodes() if node.op.name == "linear")


def test_a_model_without_notes_has_no_loss_of_them() -> None:
    text = SPEC.replace("MoE(rms_norm(x, 1e-6) as norm) as moe", "rms_norm(x, 1e-6) as norm")
    graph = compile_model(text, "mixture").program.graph
    weights = {"embed.weight": (20, 12), "head.weight": (20, 12), "aside.weight": (2, 12)}
    weights |= {f"layers.{i}.norm.weight": (12,) for i in range(LAYERS)}
    interpreter = Interpreter({name: torch.ones(shape) for name, shape in weights.items()})
    interpreter.run(graph, {"tokens": tokens()})
    assert list(interpreter.losses) == ["far"]


LAYERS_THAT_NOTE = "for i in 0..2 as {0} {{ x = tanh(linear(x, 6) as p) note seen = token_mean(x) }}"
SO_FAR = {
    "in the same graph": "note seen = token_mean(x) loss a = sum(noted(seen)) note seen = token_mean(2 * x)",
    "between two loops": f"""
        {LAYERS_THAT_NOTE.format("first")}
        loss a = sum(noted(seen))
        {LAYERS_THAT_NOTE.format("second")}
        loss b = sum(noted(seen) ** 2)""",
    "after layers that read a number of each token": """
        for i in 0..2 as layers {
          x = linear(x * cast_like(unsqueeze(log(upcast(positions(x)) + 2)), x), 6) as p
          note seen = token_mean(x)
        }
        loss a = sum(noted(seen))""",
    "beside a sum that the kernel of a later norm makes": """
        note seen = token_mean(x)
        x = x + linear(x, 6) as p
        loss far = sum(token_mean(x))
        loss a = sum(noted(seen))
        x = rms_norm(x, 1e-6) as norm""",
    "in each layer": """
        for i in 0..3 as layers {
          x = tanh(linear(x, 6) as p)
          note seen = token_mean(x)
          loss a = sum(noted(seen) ** 2)
        }""",
}


@pytest.mark.parametrize("place", SO_FAR)
def test_a_term_reads_what_was_noted_before_it(place: str) -> None:
    """And that alone, wherever it stands."""
    forward = f"x = embedding(tokens, 9, 6) as embed {SO_FAR[place]} return linear(x, 9) as head"
    compilation = compile_model(f"arch A() {{ forward(tokens: [B, T]) {{ {forward} }} }} model a = A()", "a")
    assert [str(each) for each in outcomes_of(compilation.program, compilation, True) if not each.holds] == []


@pytest.mark.parametrize("spec", ["deepseek_v2", "deepseek_v3"])
def test_balance_of_each_sequence(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fractions of choices times mean scores, which DeepSeek-V3 makes sum to 1; counted token by token."""
    package = build(SPECS / f"{spec}.arch", f"{spec}_tiny", tmp_path, {"balance": "0.3"})
    model = package.Reference(dtype=torch.float64)
    scramble(model)
    module, seen = sys.modules[package.Reference.__module__], []
    original = vars(module)["loads"]
    monkeypatch.setattr(module, "loads", lambda *given: (seen.append(given), original(*given))[1])
    found = model.loss(tokens(), tokens(), apart=True)["balance"]
    truth = torch.zeros((), dtype=torch.float64)
    for chosen, scores in seen:
        choices, experts = chosen.shape[-1], scores.shape[-1]
        likely = scores / scores.sum(-1, keepdim=True)
        for row, of_tokens in zip(chosen, likely, strict=True):
            counts = torch.bincount(row.flatten(), minlength=experts).double()
            shares = experts * counts / (choices * len(row))
            truth = truth + 0.3 * (shares * of_tokens.mean(0)).sum() / len(chosen)
    assert len(seen) == 2
    assert distance(found, truth) < EXACT


def test_noise_is_for_losses_in_training(tmp_path: Path) -> None:
    package = build(SPECS / "switch.arch", "switch_tiny", tmp_path)
    losses = package.losses
    x = torch.ones(400, 5)
    noisy = losses.jitter(x, 0.2, losses.Losses(training=True))
    assert 0.8 <= noisy.min() < 0.81
    assert 1.19 < noisy.max() <= 1.2
    assert abs(noisy.mean() - 1) < 0.01
    model = package.Model(dtype=torch.float32)
    given = torch.randint(0, 160, (2, 9)), torch.randint(0, 160, (2, 7))
    assert torch.equal(model(*given), model(*given))
    scramble(model)
    assert not torch.equal(model.loss(*given, given[1]), model.loss(*given, given[1]))
    model.eval()
    assert torch.equal(model.loss(*given, given[1]), model.loss(*given, given[1]))
