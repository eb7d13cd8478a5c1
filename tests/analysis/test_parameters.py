"""Parameters: how many there are, as in the module and as published, and what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archc.analysis.parameters import count_parameters
from tests.analysis.models import MODELS, built, compiled
from tests.analysis.published import ACTIVE, NON_EMBEDDING, TOTAL
from tests.support import compile_model, few


@pytest.mark.parametrize("model", few(MODELS, 40))
def test_totals_are_those_of_the_module(model: str) -> None:
    counts = count_parameters(compiled(model).reference)
    module = built(model).Model(device="meta", dtype=torch.bfloat16)
    assert counts.total == sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert counts.total == sum(counts.by_role.values())


@pytest.mark.parametrize("model", few(MODELS, 40))
def test_layers_and_what_is_outside_make_the_total(model: str) -> None:
    counts = count_parameters(compiled(model).reference)
    inside = sum(layer.count * layer.parameters for layer in counts.layers)
    outside = sum(node.types[0].numel() for node in compiled(model).reference.weights())
    assert inside + outside == counts.total


@pytest.mark.parametrize("model", [model for model in TOTAL if model in MODELS])
def test_totals_are_the_published_ones(model: str) -> None:
    assert count_parameters(compiled(model).reference).total == TOTAL[model]


@pytest.mark.parametrize("model", [model for model in NON_EMBEDDING if model in MODELS])
def test_parameters_besides_embeddings_are_the_published_ones(model: str) -> None:
    counts = count_parameters(compiled(model).reference)
    assert counts.non_embedding / 1e9 == pytest.approx(NON_EMBEDDING[model], rel=0.01)


@pytest.mark.parametrize("model", [model for model in ACTIVE if model in MODELS])
def test_active_parameters_are_the_published_ones(model: str) -> None:
    counts = count_parameters(compiled(model).reference)
    both, without = ACTIVE[model]
    assert counts.active / 1e9 == pytest.approx(both, abs=0.005)
    assert (counts.active - counts.embedding) / 1e9 == pytest.approx(without, abs=0.005)


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_has_a_role(model: str) -> None:
    assert "other" not in count_parameters(compiled(model).reference).by_role


_ODD = """
arch Odd(d = 32, heads = 4, vocab = 100, residual = true) {{
  forward(tokens: [B, T]) {{
    x = embedding(tokens, vocab, d) as a
    for i in 0..3 as b {{
      h = rms_norm(x, 1e-6) as c
      q, k, v = split(linear(h, 3 * d) as d, 3)
      o = attention(split_heads(q, heads), split_heads(k, heads), split_heads(v, heads), mask = causal)
      {body}
    }}
    return linear(layer_norm(x, 1e-6) as g, vocab{tied}) as h
  }}
}}
model odd = Odd()
"""
_ATTENTION, _MLP = 3 * 4 * 32 * 32, 3 * 2 * 32 * 48


@pytest.mark.parametrize(
    ("body", "tied", "norms"),
    [
        # one after the other, with a norm between
        (
            "x = x + linear(merge_heads(o), d) as e\n"
            "x = x + linear(gelu(linear(rms_norm(x, 1e-6) as f, 48) as p), d) as q",
            "",
            3 * 2 * 32,
        ),
        # side by side, as in PaLM
        (
            "x = x + linear(merge_heads(o), d) as e + linear(gelu(linear(h, 48) as p), d) as q",
            ", tied_to = a",
            3 * 32,
        ),
        # norms after the sums, as in 2017
        (
            "x = layer_norm(x + linear(merge_heads(o), d) as e, 1e-6, bias = false) as n\n"
            "x = layer_norm(x + linear(relu(linear(x, 48) as p), d) as q, 1e-6, bias = false) as m",
            ", tied_to = a",
            3 * 3 * 32,
        ),
    ],
    ids=["sequential", "parallel", "post-norm"],
)
def test_roles_follow_from_the_graph_not_from_names(body: str, tied: str, norms: int) -> None:
    counts = count_parameters(compile_model(_ODD.format(body=body, tied=tied), "odd").reference)
    expected = {"attention": _ATTENTION, "mlp": _MLP, "norm": norms + 2 * 32, "embedding": 3200}
    assert counts.by_role == expected | ({} if tied else {"head": 3200})
    assert counts.non_embedding == counts.total - (3200 if tied else 6400)
    assert [(layer.count, layer.kind) for layer in counts.layers] == [(3, "causal attention + mlp")]


def test_layers_that_differ_in_an_op_are_told_apart() -> None:
    kinds = [layer.kind for layer in count_parameters(compiled("smollm3_3b").reference).layers]
    assert kinds == ["causal attention + mlp with rotate_by", "causal attention + mlp"]


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        (
            "qwen3_next_80b_a3b",
            ["recurrent mixer + 10 of 512 experts", "causal attention + 10 of 512 experts"],
        ),
        ("mamba2_2_7b", ["recurrent mixer"]),
        # What an expert may take more of is told by earlier tokens.
        ("switch_base_8", ["full attention + mlp", "full attention + 1 of 8 experts"]),
    ],
)
def test_attention_is_what_has_a_mask(model: str, kinds: list[str]) -> None:
    counts = count_parameters(compiled(model).reference)
    assert [layer.kind for layer in counts.layers][:2] == kinds
    assert ("mixer" in counts.by_role) is ("recurrent" in kinds[0])


def test_experts_of_a_layer_that_runs_again_count_once() -> None:
    """Of theirs a token meets as many as it chooses in all runs, if there are so many."""
    looped = compile_model(Path("tests/architectures/again.arch"), "again", {"count": "9"})
    alone = compile_model(Path("tests/architectures/again.arch"), "again", {"count": "9", "times": "1"})
    counts, once = count_parameters(looped.reference), count_parameters(alone.reference)
    assert counts.by_role == once.by_role
    experts = 2 * 9 * 3 * 24 * 16, 2 * 9 * 2 * 24 * 16  # of gated MLPs that run three times, of others twice
    assert counts.by_role["experts"] == sum(experts)
    assert counts.total - counts.active == (9 - 6) / 9 * experts[0] + (9 - 4) / 9 * experts[1]
    assert once.total - once.active == (9 - 2) / 9 * experts[0] + (9 - 4) / 9 * experts[1]
