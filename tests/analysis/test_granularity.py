"""`archc search` of a model with experts: granularities of as many parameters, and a front that is one."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from archc import compiler
from archc.analysis.devices import find_device
from archc.analysis.kernels import Shape, kernels
from archc.analysis.laws.routed import krajewski
from archc.analysis.parameters import count_parameters
from archc.analysis.serving import Workload, serving_rate
from archc.cli import main
from archc.exploration.granularity import GranularitySearch, Mixture, search_granularity
from archc.ir.graph import Graph
from tests.analysis.test_search import run
from tests.support import SPECS, check_refused

LOAD = Workload(16, 256, 128, "bfloat16", find_device("h200"))
SIZES = "d = 256, layers = 2, heads = 4, d_ff = 64, experts = 64, choices = 4, vocab = 512"
MODELS = {
    "qwen3_moe": f"model m = Qwen3Moe({SIZES}, head_dim = 64, expert_d_ff = 64)",
    "gpt_oss": f"model m = GptOss({SIZES}, kv_heads = 2, head_dim = 64)",
    "mixtral": f"model m = Mixtral({SIZES}, kv_heads = 2)",
    "deepseek_v3": f"model m = DeepseekV3({SIZES}, expert_d_ff = 64, shared = 2, dense = 1, groups = 1)",
}
GRANULARITIES = {
    "qwen3_moe": [1, 2, 4, 8, 16, 32],
    "gpt_oss": [1, 2, 4, 8],  # beyond, biases of so many experts are parameters of their own
    "mixtral": [1, 2, 4, 8, 16, 32],
    "deepseek_v3": [2, 4, 8, 16, 32],  # 1 would halve an expert that all tokens share
}
# The models of Krajewski et al.: attention of 4 d^2, experts of two matrices, 64 for each that is taken.
PAPER = """
arch Paper(d, layers, experts, choices, expert_d_ff, vocab = 128, eps = 1e-5) {
  block Attention(x) {
    q, k = split_heads(linear(x, d) as q, 2), split_heads(linear(x, d) as k, 2)
    v = split_heads(linear(x, d) as v, 2)
    return linear(merge_heads(attention(q, k, v, mask = causal)), d) as o
  }

  block MoE(x) {
    weights, chosen = top_k(softmax(linear(x, experts) as gate), choices)
    return experts e in chosen of experts as experts {
      return weights[e] * linear(silu(linear(x, expert_d_ff) as up), d) as down
    }
  }

  forward(tokens: [B, T]) {
    x = embedding(tokens, vocab, d) as wte
    for i in 0..layers as h {
      x = x + Attention(rms_norm(x, eps, weight = false)) as attn
      x = x + MoE(rms_norm(x, eps, weight = false)) as mlp
    }
    return linear(x, vocab) as lm_head
  }
}

model m = Paper(d = 64, layers = 3, experts = 256, choices = 4, expert_d_ff = 64)
"""


def mixture_of(spec: str) -> Mixture:
    read = compiler.read_spec_text(f"import {spec}\n{MODELS[spec]}")
    return Mixture(read, compiler.one_program(read, "m", {}), {})


def found_in(spec: str) -> tuple[Mixture, GranularitySearch]:
    mixture = mixture_of(spec)
    return mixture, search_granularity(mixture, LOAD)


def routed(graph: Graph) -> set[tuple[int, int]]:
    """Experts of each layer that has them, and how many a token takes."""
    return {(n.attributes["count"], body.choices(n)) for body in graph.walk() for n in body.experts()}


@pytest.mark.parametrize("spec", MODELS)
def test_granularities_differ_in_experts_and_in_nothing_else(spec: str) -> None:
    mixture, found = found_in(spec)
    assert [point.grain.choices for point in found.points] == GRANULARITIES[spec]
    start = count_parameters(mixture.program.graph)
    for point in found.points:
        program = mixture.changed(mixture.settings_of(point.grain))
        counts = count_parameters(program.graph)
        assert routed(program.graph) == {(point.grain.experts, point.grain.choices)}
        assert point.grain.experts == 16 * point.grain.choices
        assert point.parameters == counts.non_embedding - counts.by_role["router"]
        assert point.parameters == pytest.approx(start.non_embedding - start.by_role["router"], rel=0.01)
        assert counts.active - counts.by_role["router"] == pytest.approx(
            start.active - start.by_role["router"], rel=0.01
        )


def test_finer_experts_lose_less_by_the_law_whatever_the_tokens() -> None:
    _, found = found_in("qwen3_moe")
    assert found.base.loss == 0
    for coarse, fine in pairwise(found.points):
        assert fine.loss < coarse.loss
    for point in found.points:
        for tokens in (1e9, 1e12):
            losses = [krajewski(p.grain.choices).loss(p.parameters, tokens) for p in (point, found.base)]
            assert point.loss == pytest.approx(losses[0] - losses[1], abs=1e-9)


def test_n_is_that_of_the_paper() -> None:
    """d^2 (8 E + 4) for each block, of E times an MLP of 4 d: attention is there once, routers are not."""
    read = compiler.read_spec_text(PAPER)
    found = search_granularity(Mixture(read, compiler.one_program(read, "m", {}), {}), LOAD)
    assert [point.grain.choices for point in found.points] == [1, 2, 4, 8, 16, 32]
    assert {point.parameters for point in found.points} == {3 * 64**2 * (8 * 64 + 4)}


def test_rates_are_those_of_the_graphs() -> None:
    """Products differ by those of the router alone, and each rate is that of its own compiled graph."""
    mixture, found = found_in("qwen3_moe")
    tokens, products = LOAD.batch * LOAD.prompt, {}
    for point in found.points:
        program = mixture.changed(mixture.settings_of(point.grain))
        compiled = compiler.compile_program(program, mixture.spec.rules)
        assert point.rate == serving_rate(compiled.reference, compiled.fused, LOAD)
        shape = Shape(LOAD.batch, LOAD.prompt, LOAD.prompt, 1)
        launches = list(kernels(compiled.fused, shape, LOAD.element, {}))
        products[point] = sum(kernel.times * kernel.work.matrix for kernel in launches)
    for coarse, fine in pairwise(found.points):
        assert products[fine] - products[coarse] == 2 * tokens * (fine.router - coarse.router) > 0
        assert fine.rate < coarse.rate


@pytest.mark.parametrize("spec", MODELS)
def test_the_front_is_a_front(spec: str) -> None:
    _, found = found_in(spec)
    unbeaten = [
        p
        for p in found.points
        if not any(q is not p and q.loss <= p.loss and q.rate >= p.rate for q in found.points)
    ]
    assert list(found.front) == sorted(unbeaten, key=lambda point: point.loss)
    assert len(unbeaten) > 1


def test_what_is_written_builds(tmp_path: Path) -> None:
    spec, front, table, plot = (tmp_path / name for name in ("m.arch", "front.arch", "all.csv", "g.png"))
    spec.write_text(f"import deepseek_v3\n{MODELS['deepseek_v3']}\n")
    result = run(str(spec), "--csv", str(table), "--plot", str(plot), "-o", str(front))
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "parameters without the vocabulary's tables and without routers, of all experts" in said
    assert "fitted at 64 experts for each that a token takes, not 16: extrapolated" in said
    assert "in MLPs that every token passes" in said
    rows = [row for row in csv.DictReader(table.open()) if row["front"] == "1"]
    written = compiler.read_spec_file(front)
    programs = list(compiler.lower_models(written, written.models))
    assert {program.name for program in programs} == {f"m_g{row['granularity']}" for row in rows}
    for program in programs:
        compiler.compile_program(program, written.rules)
        row = next(row for row in rows if program.name == f"m_g{row['granularity']}")
        names = ("experts", "choices", "expert_d_ff", "shared")
        assert [str(program.parameters[name]) for name in names] == [row[name] for name in names]
    assert CliRunner().invoke(main, ["fmt", "--check", str(front)]).exit_code == 0
    assert plot.read_bytes()[:4] == b"\x89PNG"


def other_names() -> str:
    """A mixture whose arch calls its experts otherwise."""
    text = (SPECS / "qwen3_moe.arch").read_text()
    arch = text[: text.index("model qwen3_30b_a3b")].replace("choices", "taken").replace("Qwen3Moe", "Mine")
    return arch + "model m = Mine(d = 64, layers = 1, heads = 4, d_ff = 64, expert_d_ff = 16)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mixtral.arch", "--model", "mixtral_8x7b"), "applies it from 16 to 256; mixtral_8x7b has 4"),
        (("llama4.arch", "--model", "llama4_scout"), "llama4_scout has no other granularity"),
        (("qwen3_moe.arch", "--model", "qwen3_30b_a3b", "--set", "choices=64"), "archc applies it from 16"),
        (
            ("qwen3_moe.arch", "--model", "qwen3_30b_a3b", "--set", "choices=64", "--set", "experts=1024"),
            "granularities of 1 to 32; a token of qwen3_30b_a3b takes 64 experts",
        ),
        (("qwen3_moe.arch", "--model", "qwen3_30b_a3b", "--groups", "3"), "--groups is for dense models"),
        (("qwen3_moe.arch", "--model", "qwen3_30b_a3b", "--rates", "r.csv"), "--rates is for dense models"),
        (("qwen3_moe.arch", "--model", "qwen3_30b_a3b", "--hardware", "h300"), "no device `h300`"),
    ],
)
def test_bad_input_gets_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    result = run(str(SPECS / arguments[0]), *arguments[1:])
    check_refused(result, message)
    assert len(result.output.splitlines()) == 1


def test_experts_by_other_names_are_not_guessed_at(tmp_path: Path) -> None:
    spec = tmp_path / "mine.arch"
    spec.write_text(other_names())
    check_refused(run(str(spec)), "the arch Mine has experts, but no parameter `choices`")
