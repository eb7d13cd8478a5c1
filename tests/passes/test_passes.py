"""Each pass: what it does to a graph, that values stay, and that a broken one is found and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from archc import compiler
from archc.compiler import standard_rules
from archc.ir.graph import Graph
from archc.ir.node import Node, stored_in
from archc.ir.op import OPS
from archc.ir.ops.structure import APPEND, CONSTANT
from archc.ir.paths import path_text
from archc.ir.rule import rule_of
from archc.ir.verifier import MalformedGraphError
from archc.passes import pipeline
from archc.passes.context import Context
from archc.passes.pipeline import PASSES, Pass
from archc.target import CPU, CUDA
from archc.verification.packages import stored_tensors
from archc.verification.stages import check_stages
from tests.passes.stages import ops, program_of, staged, tiny
from tests.support import SPECS, build, compile_model, few, scramble

FAMILIES = (
    "llama3",
    "mistral",
    "smollm3",
    "qwen2",
    "qwen3",
    "olmo2",
    "gpt2",
    "palm",
    "gemma2",
    "mixtral",
    "qwen3_moe",
)


def weights(graph: Graph) -> list[list[str]]:
    """The checkpoint paths in each weight."""
    return [
        [path_text(stored.path) for stored in stored_in(node)]
        for part in graph.walk()
        for node in part.weights()
    ]


@pytest.mark.parametrize("family", few(FAMILIES, 6))
def test_every_pass_keeps_the_values(family: str) -> None:
    outcomes = list(check_stages(tiny(family), Context(standard_rules(), CUDA), each_pass=True))
    assert [outcome for outcome in outcomes if not outcome.holds] == []
    assert {outcome.subject for outcome in outcomes} == {f"after {each.name}" for each in PASSES}


_MULTIPLIED = """
x = embedding(tokens, 50, 24) as wte
h = rms_norm(x, 1e-6) as n
q, k = split_heads(0.5 * linear(h, 24) as q, 4), rotate(split_heads(linear(h, 24) as k, 4) * K, rope(100))
o = attention(rotate(q, rope(100)), k, split_heads(-0.7 * linear(h, 24) as v, 4), mask = causal, softcap = 5)
x = x + linear(merge_heads(o), 24, bias = BIAS) as o
return linear(rms_norm(x, 1e-6) as norm, 50) as head
"""


@pytest.mark.parametrize(("key", "bias", "scale", "left"), [("3", "false", 1.5, 0), ("-3", "true", 0.5, 2)])
def test_numbers_of_heads_are_attentions(key: str, bias: str, scale: float, left: int) -> None:
    """None that turns scores round, and none of values where what is added after them is not multiplied."""
    program = program_of(_MULTIPLIED.replace("K,", f"{key},").replace("BIAS", bias))
    graphs, _ = staged(program)
    (attend,) = (node for node in graphs["factors"].nodes() if node.op is OPS["attend"])
    assert attend.attributes["scale"] == pytest.approx(scale * 6**-0.5)
    assert sum(op in ("mul", "mul_add_rms_norm") for op in ops(graphs["clean"])) == (left or 1)
    outcomes = check_stages(program, Context(standard_rules(), CUDA), each_pass=True)
    assert [outcome for outcome in outcomes if not outcome.holds] == []


_HANDED_ON = """
x = embedding(tokens, 50, 24) as wte
k, v, o = none, none, 0 * x
for i in 0..2 as layers {
  q = split_heads(linear(x + o, 24) as q, 4)
  if i == 0 {
    k, v = 0.5 * split_heads(linear(x, 24) as k, 4), 0.7 * split_heads(linear(x, 24) as v, 4)
  }
  bias = 2 * alibi_bias(positions(x), key_positions(x), heads = 4)
  o = merge_heads(attention(q, k, v if i == 0 else 0.3 * v, mask = causal, bias = bias))
  x = x + linear(o, 24) as o
}
return linear(rms_norm(x + o, 1e-6) as norm, 50) as head
"""


def test_numbers_of_what_others_read_stay() -> None:
    """Keys and values of a later layer, a result that leaves the layer; and a bias is no query."""
    outcomes = check_stages(program_of(_HANDED_ON), Context(standard_rules(), CUDA), each_pass=True)
    assert [outcome for outcome in outcomes if not outcome.holds] == []


def test_fold_computes_numbers_and_drops_neutral_ones() -> None:
    graphs, _ = staged(program_of("x = embedding(tokens, 9, d) as wte\n return x * 1.0 / 1.0 - 0.0 + 2.0"))
    assert ops(graphs["frontend"]).count("mul") == 1
    kept = [name for name in ops(graphs["clean"]) if name not in ("input", "weight", "constant", "embedding")]
    assert kept == ["add"]


def test_fold_of_constants_makes_one() -> None:
    program = program_of("x = embedding(tokens, 9, d) as wte\n return x")
    graph = program.graph
    two = graph.add(CONSTANT, (), {"value": 2.0}).outputs[0]
    three = graph.add(OPS["add"], [two, two]).outputs[0]
    graph.outputs.append(("y", three))
    graphs, _ = staged(program)
    _, value = graphs["fold"].outputs[1]
    assert graphs["fold"].node(value).attributes["value"] == 4.0


def test_common_merges_equal_computations_in_either_order() -> None:
    body = "x = embedding(tokens, 9, d) as wte\n return silu(x + x * x) * silu(x * x + x)"
    graphs, _ = staged(program_of(body))
    assert [ops(graphs[stage]).count("silu") for stage in ("frontend", "common")] == [2, 1]


def test_hoist_moves_tables_out_of_the_loop() -> None:
    graphs, _ = staged(tiny("llama3"))
    (loop,) = graphs["hoist"].loops()
    assert "rope_table" in ops(graphs["hoist"])
    assert "rope_table" not in ops(loop.bodies[0])


def test_what_is_hoisted_is_called_after_what_it_comes_from() -> None:
    body = """
  x = embedding(tokens, 9, d) as wte
  shift = parameter([d]) as shift
  for i in 0..2 as layers { x = x + linear(x, d) as f * -shift }
  return x
"""
    graphs, _ = staged(program_of(body))
    (layer,) = graphs["hoist"].loops()[0].bodies
    assert [layer.name_of(value) for value in layer.inputs] == ["x", "shift", "shift"]  # the last is -shift


def test_what_several_loops_compute_is_hoisted_once() -> None:
    """A number stands in each of them; of what they carry a cast reads the dtype alone."""
    layers = """
  for i in 0..2 as NAME {
    warmth = unsqueeze(cast_like(log(upcast(positions(x)) + 1), x))
    x = x + linear(x, d) as f * warmth
  }"""
    loops = layers.replace("NAME", "first") + layers.replace("NAME", "second")
    graphs, _ = staged(program_of(f"x = embedding(tokens, 9, d) as wte {loops}\n return x"))
    found = ops(graphs["hoist"])
    assert [found.count(op) for op in ("loop", "log", "cast_like", "unsqueeze")] == [2, 1, 1, 1]


TUNED = """
  x = embedding(tokens, 9, d) as wte
  for i in 0..2 as layers {
    q = split_heads(linear(x, d) as q, 3)
    factor = unsqueeze(unsqueeze(FACTOR))
    x = x + merge_heads(attention(cast_like(q * factor, q), q, q, mask = causal))
  }
  return x
"""


@pytest.mark.parametrize(
    ("factor", "fuses"),
    [
        ("log(3 + cast_like(whole_quotient(positions(q), by = 4), upcast(q)))", True),
        ("sum(upcast(x))", False),
    ],
)
def test_factors_of_positions_are_hoisted_and_fused(factor: str, fuses: bool) -> None:
    """The dtype of a layer's values is that of what enters it; what has a gradient stays in the layer."""
    program = program_of(TUNED.replace("unsqueeze(FACTOR)" if not fuses else "FACTOR", factor))
    context = Context(standard_rules(), CUDA)
    outcomes = list(check_stages(program, context, each_pass=False))
    assert [outcome for outcome in outcomes if not outcome.holds] == []
    graphs, context = staged(program)
    (loop,) = graphs["clean"].loops()
    inside = {"cast_like", "upcast_like", "whole_quotient", "log", "unsqueeze", "mul"} & set(
        ops(loop.bodies[0])
    )
    assert inside == (set() if fuses else {"mul"})  # of rows, with what is cast and broadcast for it
    assert ("position_scale" in ops(loop.bodies[0])) == fuses
    missed = {miss.rule: miss.reason for miss in context.report.missed}
    assert fuses or missed["position_scale"] == "what it multiplies by has a gradient"


ROTATED = """
  x = embedding(tokens, 9, d) as wte
  frequencies = rope_frequencies(positions(x), rope = rope(10000), width = d / 3)
  cos, sin = rope_table(positions(x), FREQUENCIES)
  qkv = linear(x, 3 * d) as qkv
  q, k, v = split(qkv, 3)
  q, k = rotate_by(split_heads(q, 3), cos, sin), rotate_by(split_heads(k, 3), cos, sin)
  return merge_heads(attention(q, k, split_heads(v, 3), mask = causal))
"""


@pytest.mark.parametrize(
    ("frequencies", "fuses"),
    [
        ("frequencies * 0.5", True),
        ("frequencies * exp(parameter([d / 6]) as alpha)", False),
        ("frequencies * (1 + step(parameter([d / 6]) as alpha))", True),
    ],
)
def test_kernels_rotate_by_what_has_no_gradient(frequencies: str, fuses: bool) -> None:
    graphs, context = staged(program_of(ROTATED.replace("FREQUENCIES", frequencies)))
    families = [rule.family for node in graphs["clean"].nodes() if (rule := rule_of(node))]
    assert ("rope" in families) == fuses
    missed = {miss.rule: miss.reason for miss in context.report.missed}
    assert fuses or missed["q_rope"] == "what it rotates by has a gradient"


def test_what_differs_by_column_is_no_number_of_a_token() -> None:
    """The kernel of `position_scale` takes one number for each token, whatever it is given."""
    graphs, _ = staged(program_of("""
      h = split_heads(linear(embedding(tokens, 9, d) as wte, d) as proj, 3)
      x = attention(h, h, h, mask = causal)
      return linear(merge_heads(cast_like(x * linear_attention(h, h, h), x)), d) as out
    """))
    rules = [rule_of(node) for node in graphs["clean"].nodes()]
    assert [rule.family for rule in rules if rule and rule.steps[0].op.name == "mul"] == ["row"]


def test_sink_makes_a_bias_where_attention_adds_it() -> None:
    """In each layer of both stacks, and in both forms of attention that absorbs maps: no scores are held."""
    graphs, _ = staged(tiny("t5"))
    for loop in graphs["sink"].loops():
        assert ops(loop.bodies[0]).count("relative_bias") == 1
    assert "relative_bias" not in ops(graphs["clean"])
    assert [name for name in ops(graphs["clean"]) if "relative" in name] == [
        "relative_attention",
        "relative_attention",
        "shared_relative_attention",
    ]


def test_a_bias_of_all_layers_leaves_rings_their_length() -> None:
    body = """
        x = embedding(tokens, 9, d) as wte
        bias = alibi_bias(positions(x), key_positions(x), heads = 4)
        for i in 0..3 as layers {
          q, k, v = split(linear(x, 3 * d) as qkv, 3)
          q, k, v = split_heads(q, 4), split_heads(silu(k), 4), split_heads(silu(v), 4)
          x = x + merge_heads(attention(q, k, v, mask = sliding(5), bias = bias))
        }
        return linear(x, 9) as head
    """
    graphs, _ = staged(program_of(body))
    assert ops(graphs["clean"]).count("alibi_attention") == 1
    kept = [n.attributes["length"] for g in graphs["clean"].walk() for n in g.nodes() if n.op is APPEND]
    assert kept == [5, 5]


def test_unused_drops_what_nothing_reads() -> None:
    graphs, _ = staged(program_of("x = embedding(tokens, 9, d) as wte\n y = silu(x)\n return x"))
    assert "silu" in ops(graphs["frontend"])
    assert "silu" not in ops(graphs["unused"])


def test_cache_keeps_keys_and_values_of_every_attention() -> None:
    graphs, _ = staged(tiny("qwen3"))
    slots = [n.attributes["slot"] for g in graphs["cache"].walk() for n in g.nodes() if n.op is APPEND]
    assert slots == ["k", "v"]


def test_a_value_that_is_query_and_key_is_kept_as_key_only() -> None:
    body = """x = embedding(tokens, d, d) as wte
    q = split_heads(x, 3)
    return merge_heads(attention(q, q, q, mask = causal))"""
    graphs, _ = staged(program_of(body))
    (attend,) = [node for node in graphs["cache"].nodes() if node.op.name == "attend"]
    q, k, v = attend.inputs[:3]
    assert q != k == v


def test_no_cache_where_tokens_see_later_ones() -> None:
    body = """x = embedding(tokens, d, d) as wte
    q = split_heads(x, 3)
    return merge_heads(attention(q, q, q, mask = full))"""
    graphs, context = staged(program_of(body))
    assert "append" not in ops(graphs["cache"])
    assert any("lets tokens see later ones" in remark.text for remark in context.report.remarks)


PLACES = {
    "maximum(positions(x) - 1, 0)": "",
    "maximum(positions(x) - 2, 0)": "",
    "minimum(positions(x), 5)": "",
    "4 * whole_quotient(positions(x), 4)": "",
    "positions(x) + 1": "queries may stand after",
    "maximum(positions(x), 5)": "queries may stand after",
    "2 * positions(x)": "queries may stand after",
    "5 * whole_quotient(positions(x), 4)": "queries may stand after",
    "positions(x) - (-1)": "queries may stand after",
    "key_positions(x) + 3": "",
    "key_positions(x) - 1": "keys may stand before",
    "maximum(key_positions(x) - 2, 0)": "keys may stand before",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_cache_where_no_position_lets_tokens_see_later_ones(place: str) -> None:
    """Keys that stand elsewhere are all kept, however short the window."""
    of_keys = place.removeprefix("maximum(").startswith("key_")
    places = f"positions(x), {place}" if of_keys else f"{place}, key_positions(x)"
    body = f"""x = embedding(tokens, d, d) as wte
    for i in 0..2 as layers {{
      q = split_heads(x, 3)
      x = x + merge_heads(attend(q, q, q, {places}, mask = sliding(4), scale = 1))
    }}
    return x"""
    graphs, context = staged(program_of(body))
    kept = [node for part in graphs["cache"].walk() for node in part.nodes() if node.op is APPEND]
    assert bool(kept) == (not PLACES[place])
    assert any(PLACES[place] in remark.text for remark in context.report.remarks)
    assert all(node.attributes["length"] is None for node in kept)


def test_a_cache_for_whatever_comes_out(tmp_path: Path) -> None:
    """A causal model of hidden states reads in pieces, and generates nothing."""
    body = """x = embedding(tokens, 9, d) as wte
    q = split_heads(x, 3)
    return merge_heads(attention(q, q, q, mask = causal))"""
    graphs, _ = staged(program_of(body))
    assert "append" in ops(graphs["cache"])
    text = f"arch A(d = 24) {{ forward(tokens: [B, T]) {{ {body} }} }}\nmodel a = A()"
    remarks = compile_model(text, "a").report.remarks
    assert any("no `generate`: what the model returns is not logits" in each.text for each in remarks)
    model = build(text, "a", tmp_path).Model()
    assert hasattr(model, "new_cache")
    assert not hasattr(model, "generate")


NO_CACHE = {
    "tokens: [B, T], mask: float[B, T, T]": (
        "x",
        "`mask` is [B, T, T], which is more than a row for each token",
    ),
    "tokens: [B, T], places: [T]": ("x", "`places` is [T], which is more than a row for each token"),
    "tokens: [B, T], speaker: float[B, d]": (
        "x, speaker",
        "the model returns `speaker`, [B, 24], which is not a row for each token",
    ),
    "tokens: [B, T], text: [B, N]": (
        "transpose(unsqueeze(first_token(x))) * (embedding(text, 9, d) as text)",
        "no token looks at others",
    ),
}


@pytest.mark.parametrize("inputs", NO_CACHE)
def test_no_cache_where_not_all_is_by_token(inputs: str) -> None:
    result, reason = NO_CACHE[inputs]
    text = f"""arch A(d = 24) {{ forward({inputs}) {{
      x = embedding(tokens, 9, d) as wte
      q = split_heads(x, 3)
      x = merge_heads(attention(q, q, q, mask = causal))
      return {result} }} }}
    model a = A()"""
    (program,) = compiler.lower_models(compiler.read_spec_text(text), ["a"])
    graphs, context = staged(program)
    assert "append" not in ops(graphs["cache"])
    assert [reason in each.text for each in context.report.remarks if each.pass_name == "cache"] == [True]


def test_layout_turns_weights_round() -> None:
    graphs, _ = staged(tiny("gpt2"))
    turned = [s.transposed for g in graphs["layout"].walk() for n in g.weights() for s in stored_in(n)]
    assert turned.count(True) == 4  # c_attn, c_proj, c_fc, c_proj
    assert "in_out" not in str([n.attributes for g in graphs["layout"].walk() for n in g.nodes()])


@pytest.mark.parametrize(
    ("family", "attention"),
    [("llama3", ["q_proj", "k_proj", "v_proj"]), ("latent", ["q_a_proj", "kv_a_proj_with_mqa"])],
)
def test_pack_joins_what_meets_again(family: str, attention: list[str]) -> None:
    """At once, or after norms, other linears and parts that go their own ways."""
    graphs, _ = staged(tiny(family))
    packed = [paths for paths in weights(graphs["pack"]) if len(paths) > 1]
    assert [[path.split(".")[-2] for path in paths] for paths in packed] == [
        attention,
        ["gate_proj", "up_proj"],
    ]


@pytest.mark.parametrize(("heads", "packed"), [(8, True), (3, False)])
def test_pack_joins_a_gate_with_what_it_opens(heads: int, packed: bool) -> None:
    """Where rows of all of them begin at 16 bytes; the MLP beside it reads the same, and stays apart."""
    body = f"""x = embedding(tokens, 9, d) as wte
    q, k, v = linear(x, d) as q, linear(x, d) as k, linear(x, d) as v
    o = attention(split_heads(q, {heads}), split_heads(k, {heads}), split_heads(v, {heads}), mask = full)
    o = merge_heads(o * unsqueeze(sigmoid(cast_like(upcast(linear(x, {heads}) as gate), o))))
    return linear(o, d) as o + linear(silu(linear(x, 4 * d) as up), d) as down"""
    graphs, context = staged(program_of(body))
    found = [[path.split(".")[-2] for path in paths] for paths in weights(graphs["pack"])]
    told = [remark.text for remark in context.report.remarks if remark.text.endswith("are one linear")]
    assert len(told) == 1  # of all that became one, however they did
    assert told[0].startswith("q, k, v, gate (" if packed else "q, k, v (")
    assert [*"qkv"] in found
    assert ([*"qkv", "gate"] in found) == packed
    assert not any("up" in names for names in found if len(names) > 1)


def test_pack_joins_small_linears_wherever_they_lead() -> None:
    """With the first that makes more of what it reads, which others stay apart from, as the head does."""
    body = """x = embedding(tokens, 16, d) as wte
    y = linear(tanh(linear(x, 16) as a), d) as b + linear(exp(linear(x, 2 * d) as c), d) as e
    y = y + linear(silu(linear(x, 4 * d) as f), d) as g + linear(neg(linear(x, 5) as odd), d) as h
    return linear(y, 16) as head, linear(y, 8) as value"""
    graphs, _ = staged(program_of(body))
    packed = [[path.split(".")[-2] for path in paths] for paths in weights(graphs["pack"]) if len(paths) > 1]
    assert packed == [["a", "c"]]


@pytest.mark.parametrize("factor", ["1", "i", "(i // 2)"])
def test_pack_joins_what_is_read_several_times(factor: str) -> None:
    """In a loop of one body, written out, or in a loop of two; what meets it later stays apart."""
    body = f"""x = embedding(tokens, 9, d) as wte
    for i in 0..4 {{
      a, b = linear(x, d, tied_to = a if i > 0) as a, linear(x, d, tied_to = b if i > 0) as b
      c = sum(linear(x, 5, tied_to = c if i > 0) as c)
      x = {factor} * silu(a) * b + c
    }}
    return x"""
    graphs, _ = staged(program_of(body))
    packed = [[path.split(".")[-2] for path in paths] for paths in weights(graphs["pack"]) if len(paths) > 1]
    assert packed == [["a", "b"]]
    assert ops(graphs["pack"]).count("linear") == {"1": 2, "i": 8, "(i // 2)": 4}[factor]


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ("linear(x, d, bias = true) as b", "some have a bias"),
        ("linear(x, d, init = normal(std = 1)) as b", "start out differently"),
        ("linear(x, d, tied_to = c) as b", "shared with another place"),
    ],
)
def test_pack_leaves_unlike_linears_apart(second: str, reason: str) -> None:
    body = f"""x = embedding(tokens, 9, d) as wte
    z = linear(silu(x), d) as c
    y = (linear(x, d) as a) * ({second})
    return y + z"""
    graphs, context = staged(program_of(body))
    assert all(len(paths) == 1 for paths in weights(graphs["pack"]))
    assert any(reason in remark.text for remark in context.report.remarks)


def test_bias_goes_to_the_activation_only_where_a_kernel_takes_it() -> None:
    body = """x = embedding(tokens, 9, d) as wte
    a = gelu(linear(x, d, bias = true) as a)
    return a + linear(a, d, bias = true) as b"""
    graphs, _ = staged(program_of(body))
    biased = [n for n in graphs["bias"].nodes() if n.op.name == "linear" and n.inputs[2] is not None]
    assert [path_text(node.path) for node in biased] == ["b"]
    assert "bias_gelu" in ops(graphs["fuse"])


def test_the_cpu_target_fuses_attention_only() -> None:
    graphs, context = staged(tiny("llama3"), CPU)
    assert {fired.rule for fired in context.report.fired} == {"attention"}
    reasons = {attempt.reason for attempt in context.report.attempts}
    assert any("target `cpu` has no" in reason for reason in reasons)
    assert "rms_norm" in ops(graphs["clean"])


def test_missed_fusions_come_with_reasons() -> None:
    body = """x = embedding(tokens, 9, d) as wte
    g = linear(x, d) as g
    y = silu(g) * x
    return y"""
    _, context = staged(program_of(body))
    missed = {miss.rule: miss.reason for miss in context.report.missed}
    assert "reads" in missed["swiglu"]
    assert "split" in missed["swiglu"]


def test_a_report_tells_once_what_layers_share() -> None:
    """Gemma's windowed and global layers are different bodies with the same lines of the spec."""
    _, context = staged(tiny("gemma2"))
    report = context.report
    told = [(fired.rule, fired.place, fired.relaxations) for fired in report.fusions()]
    assert len(set(told)) == len(told) < len(report.fired)
    assert sum(fired.count for fired in report.fusions()) == sum(fired.count for fired in report.fired)
    assert not [miss for miss in report.misses() if "attention" in miss.rule]


def _first(graph: Graph, wanted: str) -> tuple[Graph, Node]:
    return next((g, n) for g in graph.walk() for n in g.nodes() if n.op.name == wanted)


def _shift_constant(graph: Graph) -> None:
    part, node = _first(graph, "rms_norm")
    part.update(node, attributes={**node.attributes, "eps": 1e-3})


def _swap_sources(graph: Graph) -> None:
    for part in graph.walk():
        for node in part.weights():
            if len(stored_in(node)) == 2:
                part.update(node, attributes={**node.attributes, "sources": stored_in(node)[::-1]})


def _forget_delta(graph: Graph) -> None:
    (loop,) = graph.loops()
    body = loop.bodies[0]
    total = next(n for n in body.nodes() if n.op.name == "add")
    assert total.inputs[0] is not None
    body.replace_uses(total.outputs[0], total.inputs[0])


def _mix_tables(graph: Graph) -> None:
    part, node = _first(graph, "rotate_by")
    x, cos, sin = node.inputs
    part.update(node, inputs=(x, sin, cos))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("fold", _shift_constant),
        ("hoist", _mix_tables),
        ("pack", _swap_sources),
        ("loop_edge", _forget_delta),
    ],
)
def test_a_broken_pass_is_found_and_named(
    name: str, damage: Callable[[Graph], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Graph, context: Context) -> None:
        original.run(graph, context)
        damage(graph)

    original = next(each for each in PASSES if each.name == name)
    passes = tuple(Pass(name, broken) if each is original else each for each in PASSES)
    monkeypatch.setattr(pipeline, "PASSES", passes)
    outcomes = list(check_stages(tiny("llama3"), Context(standard_rules(), CUDA), each_pass=False))
    details = {outcome.detail for outcome in outcomes if outcome.check == "float64" and not outcome.holds}
    assert details
    assert all(detail.startswith(f"pass `{name}`, op `") for detail in details)


def test_a_pass_that_breaks_the_graph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Graph, _context: Context) -> None:
        part, node = _first(graph, "silu")
        part.update(node, types=(node.types[0].with_width(7),))

    passes = (PASSES[0], Pass("vandal", broken), *PASSES[1:])
    monkeypatch.setattr(pipeline, "PASSES", passes)
    with pytest.raises(MalformedGraphError, match=r"after pass `vandal` \(before it: fold\)"):
        pipeline.run_passes(tiny("llama3").graph, Context(standard_rules(), CUDA))


def test_weights_loaded_and_saved_through_packing_are_the_same(tmp_path: Path) -> None:
    """The checkpoint map is invertible: load(save(x)) == x, also transposed and packed."""
    for family in ("gpt2", "llama3", "qwen2"):
        package = build(SPECS / f"{family}.arch", f"{family}_tiny", tmp_path)
        model = package.Model()
        scramble(model)
        model.save_pretrained(tmp_path / family)
        again = package.Model.from_pretrained(tmp_path / family)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
        reference = package.Reference.from_pretrained(tmp_path / family)
        tensors = dict(stored_tensors(model))
        assert all(torch.equal(tensors[name], tensor) for name, tensor in stored_tensors(reference))


def test_a_part_that_is_split_again_is_split_at_once() -> None:
    """Unless something else reads it."""
    body = """x = embedding(tokens, 9, 12) as wte
    a, b = split(x, [8, 4])
    c, e = split(b, 2)
    f, g, h = split(a, [4, 3, 1])
    i, j = split(f, 2)
    return c * i, e * j, g * h, linear(f, 2) as f"""
    graphs, _ = staged(program_of(body))
    splits = [node for node in graphs["clean"].nodes() if node.op.name == "split"]
    assert [node.attributes["sizes"] for node in splits] == [(4, 3, 1, 2, 2), 2]
    assert [[node.types[n].width for n in range(len(node.outputs))] for node in splits] == [
        [4, 3, 1, 2, 2],
        [2, 2],
    ]
