"""The work of a decoding step, by the graph and by the package, for every spec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from archc import compiler
from archc.codegen.emit import Origin
from archc.compiler import Compilation
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.recurrence import CARRIED, NEW_POSITIONS, RECUR
from archc.ir.ops.structure import BRANCH, EXPERTS, INPUT, WEIGHT
from archc.ir.program import most_tokens
from archc.verification.packages import import_package
from tests.analysis.models import MODELS
from tests.instruments.counted_step import counted_step
from tests.instruments.planned_step import layer_launches, planned_step
from tests.support import ROOT, SPECS, compile_model, read_spec

# The default suite has the first model of every spec.
FIRST = {*{path: model for model, path in reversed(MODELS.items())}.values()}
CASES = [pytest.param(model, marks=() if model in FIRST else pytest.mark.slow) for model in MODELS]
# Launches of a layer without experts and with them, for one new token of one sequence.
MOST = {False: 9, True: 16}
FURTHER = 4  # of attention over another sequence: the queries, attention, the map of its result, and a norm
# Those of the different layers of each spec's first model: in llama3_8b norms with their products, rotation,
# attention, the product of its result, and SwiGLU with its product.
LAUNCHES = {
    "bloom_560m": (5,),
    "command_r7b": (6, 5),
    "deepseek_v2": (9, 13),
    "deepseek_v3": (9, 13),
    "exaone4_1_2b": (6,),
    "gemma2_2b": (6, 6),
    "gemma_2b": (6,),
    "gemma3_1b": (6, 6),
    "glam_64b_64e": (5, 9),
    "glm4_5": (6, 10),
    "glm4_9b": (6,),
    "gpt2": (5,),
    "gpt3_175b": (5,),
    "gpt_oss_20b": (10, 10),
    "granite3_2b": (6,),
    "kimi_k2": (9, 13),
    "latent_1b": (8,),
    "lfm2_350m": (6, 6),
    "llama2_7b": (6,),
    "llama3_8b": (6,),
    "llama4_scout": (11, 11),
    "mamba2_130m": (7,),
    "minimax_m2": (10,),
    "ministral3_8b": (7,),
    "mistral_7b": (6,),
    "mixtral_8x7b": (10,),
    "olmo2_1b": (6,),
    "palm_8b": (6,),
    "phi3_mini": (6,),
    "pythia_160m": (6,),
    "qwen1_5_moe_a2_7b": (11,),
    "qwen2_5_0_5b": (6,),
    "qwen3_0_6b": (6,),
    "qwen3_30b_a3b": (10,),
    "qwen3_next_80b_a3b": (14, 12),
    "recurrent_gemma_2b": (12, 6),
    "smollm2_135m": (6,),
    "smollm3_3b": (6, 5),
    "starcoder2_3b": (6,),
    "panda_1b": (6,),
    "switch_base_8": (6, 11, 11, 16),
    "t5_small": (6, 11),
    "transformer_base": (6, 11),
}
NEAR, SMALL = 0.05, 1 << 15  # of a tiny model bookkeeping moves more than that share, some KB


def _layers(graph: Graph) -> list[Graph]:
    """The different layers of a model: the bodies of its innermost loops."""
    parts = graph.walk()
    return [body for part in parts for loop in part.loops() for body in loop.bodies if not body.loops()]


def _few_layers(model: str) -> dict[str, str]:
    layers = compiler.model_parameters(read_spec(MODELS[model]), model).get("layers", 0)
    return {"layers": "6"} if layers > 6 else {}


def _most(layer: Graph) -> int:
    """The launches that a layer may have, so that a step of one sequence is not bound by their latency.

    A recurrence has more around it than attention: what is made of its operands, such as decays and gates.
    """
    nodes = layer.nodes()
    experts = any(node.op is EXPERTS or node.op.module == "experts" for node in nodes)
    attentions = sum("mask" in node.attributes or node.op is BRANCH for node in nodes)
    around = sum(_around(layer, node) for node in nodes if node.op is RECUR)
    return MOST[experts] + FURTHER * max(attentions - 1, 0) + around


def _around(layer: Graph, recurrence: Node) -> int:
    """Launches that make a recurrence's operands."""
    makers = {_maker(layer, value).id for value in recurrence.operands}
    return sum(layer.node(number).op not in (INPUT, WEIGHT, CARRIED, NEW_POSITIONS) for number in makers)


def _maker(graph: Graph, value: Value | None) -> Node:
    """The node that makes a value, which views may lie before."""
    assert value is not None
    node = graph.node(value)
    return _maker(graph, node.inputs[0]) if node.op.has(Trait.VIEW) and node.inputs else node


@pytest.mark.parametrize("model", CASES)
def test_a_step_does_what_the_plan_says(model: str, tmp_path: Path) -> None:
    """No layer has too many launches; all launches, and all bytes, are those of the graph.

    Of many layers six are there, which have all their kinds.
    """
    compilation = compile_model(MODELS[model], model, _few_layers(model))
    context = min(300, (most_tokens(compilation.reference) or 1 << 20) - 2)
    package = import_package(compilation, tmp_path)
    for batch in (1, 2):
        plan = planned_step(compilation.fused, batch, context)
        step = counted_step(package, batch, context)
        assert step.count == pytest.approx(plan.count, rel=NEAR)
        assert step.bytes == pytest.approx(plan.bytes, rel=NEAR, abs=SMALL)
    layers = _layers(compilation.fused)
    assert all(layer_launches(layer) <= _most(layer) for layer in layers)
    if model in FIRST:
        assert tuple(map(layer_launches, layers)) == LAUNCHES[model]


def test_what_is_not_fused_has_launches_of_its_own() -> None:
    """Without Triton's kernels an activation, a product, sums and norms."""
    fused, plain = (
        layer_launches(_layers(compile_model(SPECS / "llama3.arch", "llama3_8b", target=target).fused)[0])
        for target in ("cuda", "cpu")
    )
    assert fused < plain


@pytest.mark.parametrize(
    ("family", "launches"),
    [("bitnet", (6,)), ("dory", (10, 10))],
)
def test_linear_maps_begin_with_any_fusion_of_rows(family: str, launches: tuple[int, ...]) -> None:
    """A normed activation, products with square sums."""
    path = ROOT / "tests" / "interop" / "families" / f"{family}.arch"
    layers = _layers(compile_model(path, family).fused)
    assert tuple(map(layer_launches, layers)) == launches


def test_the_plan_counts_weights_and_keys() -> None:
    """By hand: the bytes of a small model's matmuls and cache are the most of what a step moves."""
    graph = compile_model(SPECS / "llama2.arch", "llama2_7b").fused
    matrices = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 32000 * 4096
    near, far = (planned_step(graph, 1, context).bytes for context in (1, 1001))
    assert near == pytest.approx(2 * matrices, rel=0.01)
    assert far - near == 1000 * 32 * 2 * 4096 * 2


_SHARED = """
arch A(d = 256, heads = 4) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 90, d) as wte
    k, v = none, none
    for i in 0..4 as h {
      q, g = split(split_heads(linear(x, 2 * d) as q, heads), 2)
      if i < 3 {
        k = split_heads(linear(x, d) as k, heads)
        v = linear(x, d / 2) as v
      }
      mask = [causal, sliding(40), causal, causal][i]
      o = attention(q, k, split_heads(concat(v, v), heads), mask = mask)
      if i != 1 { o = o - attention(g, k, split_heads(concat(v, v) * 2, heads), mask = mask) }
      x = x + linear(merge_heads(o), d) as o
    }
    return linear(x, 90) as head
  }
}
model m = A()
"""


def test_a_step_over_keys_that_several_read(tmp_path: Path) -> None:
    """Two attentions of a layer, with values joined after they are kept, or a later layer."""
    compilation = compile_model(_SHARED, "m")
    plan = planned_step(compilation.fused, 2, 300)
    step = counted_step(import_package(compilation, tmp_path), 2, 300)
    assert step.count == plan.count
    assert step.bytes == pytest.approx(plan.bytes, rel=NEAR)


@pytest.mark.parametrize(
    ("spec", "model", "op"),
    [
        (Path(__file__).with_name("attention.arch"), "chosen", "attention"),
        (
            ROOT / "tests/interop/families/deepseek_sparse.arch",
            "deepseek_v32",
            "latent_attention",
        ),
    ],
)
def test_attention_over_chosen_keys_is_one_launch(spec: Path, model: str, op: str, tmp_path: Path) -> None:
    compilation = compile_model(spec, model)
    plan = planned_step(compilation.fused, 2, 300)
    step = counted_step(import_package(compilation, tmp_path), 2, 300)
    assert plan.launches[op] == sum(number for name, number in step.launches.items() if name.startswith(op))
    in_choices = plan.launches["select_keys"] - step.launches["select_keys_step"]  # PyTorch sees one op
    assert step.count + in_choices == plan.count


def test_positions_that_are_counted_from_another_place_stay_whole() -> None:
    """They look up rows of a table: arithmetic must not make them floating-point numbers."""
    layer = "x = x + linear(rms_norm(x, 1e-6) as norm, 32) as up"
    shifted, plain = (
        planned_step(compile_model(_positioned(places, layer), "m").fused, 1, 20).bytes
        for places in ("positions(tokens) + 2", "positions(tokens)")
    )
    assert shifted == pytest.approx(plain, rel=NEAR)


def _positioned(places: str, layer: str) -> str:
    return (
        "arch A() { forward(tokens: [B, T]) { x = embedding(tokens, 90, 32) as wte"
        f" + embedding({places}, 64, 32) as wpe for i in 0..2 as h {{ {layer} }}"
        " return linear(x, 90) as head } } model m = A()"
    )


def _changed(monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str) -> None:
    original: Callable[[Compilation, Origin], dict[str, str]] = compiler.package_files

    def changed(compilation: Compilation, origin: Origin) -> dict[str, str]:
        files = original(compilation, origin)
        assert old in files[file]
        return files | {file: files[file].replace(old, new)}

    monkeypatch.setattr(compiler, "package_files", changed)


@pytest.mark.parametrize(
    ("file", "old", "new", "what"),
    [
        ("model.py", "(o.flatten(-2), ", "(o.flatten(-2).clone(), ", "count"),
        ("kernels.py", "residual.numel() == 4096 and", "False and", "count"),
        ("kernels.py", "span.steps is not None and _runs_triton(q)", "False", "count"),
        ("model.py", "(h, self.lm_head)", "(h, self.lm_head.float().bfloat16())", "bytes"),
    ],
)
def test_more_work_than_planned_is_found(
    file: str, old: str, new: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compilation = compile_model(SPECS / "llama2.arch", "llama2_7b")
    _changed(monkeypatch, file, old, new)
    step = counted_step(import_package(compilation, tmp_path), 1, 300)
    plan = planned_step(compilation.fused, 1, 300)
    assert getattr(step, what) > (1 + NEAR) * getattr(plan, what)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (
            "model.py",
            "x = kernels.embedding(tokens,",
            "tokens.max().item()\n        x = kernels.embedding(tokens,",
        ),
        ("decoding.py", "self.place.add_(1)", "self.place.add_(1)\n        bool(self.place > 3)"),
        ("runtime.py", "span.steps.filled.add_(1)", "span.steps.filled.nonzero()"),
    ],
)
def test_a_step_that_waits_for_the_device_is_found(
    file: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compilation = compile_model(SPECS / "llama2.arch", "llama2_7b")
    _changed(monkeypatch, file, old, new)
    with pytest.raises((RuntimeError, NotImplementedError)):
        counted_step(import_package(compilation, tmp_path), 2, 300)


def test_steps_of_float32_move_twice_as_much(tmp_path: Path) -> None:
    compilation = compile_model(SPECS / "gpt2.arch", "gpt2")
    package = import_package(compilation, tmp_path)
    half, whole = (counted_step(package, 1, 100, dtype).bytes for dtype in (torch.bfloat16, torch.float32))
    assert whole == pytest.approx(2 * half, rel=0.01)
