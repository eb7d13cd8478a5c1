"""What ends a layer moves to the next one's start: how far, with what, and that values stay."""

from __future__ import annotations

from collections import Counter

import pytest

from archc.compiler import standard_rules
from archc.ir.ops.structure import ZEROS
from archc.passes.context import Context
from archc.target import CUDA
from archc.verification.stages import check_stages
from tests.passes.stages import program_of, staged, tiny


def test_the_addend_is_carried_into_the_next_layer() -> None:
    graphs, _ = staged(tiny("llama3"))
    (loop,) = graphs["loop_edge"].loops()
    assert loop.attributes["carried"] == ("x", "x_delta")
    assert graphs["loop_edge"].node(loop.inputs[1]).op is ZEROS  # type: ignore[arg-type]


def test_both_addends_of_a_parallel_block_are() -> None:
    graphs, _ = staged(tiny("palm"))
    (loop,) = graphs["loop_edge"].loops()
    assert loop.attributes["carried"] == ("x", "x_delta", "x_delta_2")


def test_the_norm_of_the_addend_is_with_its_weight() -> None:
    graphs, context = staged(tiny("gemma2"))
    graph = graphs["loop_edge"]
    (loop,) = graph.loops()
    assert loop.attributes["carried"] == ("x", "x_delta", "x_delta_weight")
    assert [graph.type(value).shape for value in loop.inputs[1:3] if value] == [("B", "T", 48), (48,)]
    fired = [fired for fired in context.report.fired if fired.rule == "rms_norm_add_rms_norm"]
    assert sum(each.count for each in fired) == 2 * 2 + 1  # two layers, and the norm after them


def test_a_norm_moves_to_the_linear_map_that_reads_the_sum() -> None:
    """Its kernel begins with both for one row; after the last layer a norm follows."""
    graphs, context = staged(tiny("olmo2"))
    assert graphs["loop_edge"].loops()[0].attributes["carried"] == ("x", "x_delta", "x_delta_weight")
    fired = Counter[str]()
    for each in context.report.fired:
        fired[each.rule] += each.count
    assert fired["rms_norm_add"] == 2 * 2  # in two layers
    assert fired["rms_norm_add_rms_norm"] == 1


def test_a_mere_sum_stays_where_linear_maps_alone_read_what_enters() -> None:
    body = """x = embedding(tokens, 9, d) as wte
    for i in 0..4 as layers { x = x + linear(silu(linear(x, d) as up), d) as down }
    return linear(rms_norm(x, 1e-6) as last, 9) as head"""
    graphs, context = staged(program_of(body))
    assert graphs["loop_edge"].loops()[0].attributes["carried"] == ("x",)
    assert any("no op on rows reads it" in remark.text for remark in context.report.remarks)


# The layer that begins without a norm, and whether sums move: nothing has been left to add before the first.
PLAIN = {"i == 0": True, "i == 1": False, "i < 2": False}


@pytest.mark.parametrize("plain", PLAIN)
def test_a_first_layer_need_not_begin_with_a_norm(plain: str) -> None:
    body = f"""x = embedding(tokens, 9, d) as wte
    for i in 0..4 as layers {{
      h = x
      if not ({plain}) {{ h = rms_norm(x, 1e-6) as norm }}
      x = x + linear(silu(linear(h, d) as up), d) as down
    }}
    return linear(rms_norm(x, 1e-6) as last, 9) as head"""
    program = program_of(body)
    graphs, _ = staged(program)
    (loop,) = graphs["loop_edge"].loops()
    assert ("x_delta" in loop.attributes["carried"]) == PLAIN[plain]
    first, *_ = graphs["clean"].loops()[0].bodies
    assert [node.op.name for node in first.nodes() if node.op.name == "add"] == [] or not PLAIN[plain]
    outcomes = check_stages(program, Context(standard_rules(), CUDA), each_pass=True)
    assert [outcome for outcome in outcomes if not outcome.holds] == []


# What ends a layer, where `f` is a linear map of its normed input, and what is carried for it besides `x`.
MOVED = {
    "x = x + f": ["x_delta"],
    "x = x - f": ["x_delta"],
    "x = x + (f + linear(f, d) as m)": ["x_delta", "x_delta_2"],
    "x = (x + f) + linear(h, d) as m": ["x_delta", "x_delta_2"],
    "x = x + (f + linear(h, d) as m)": ["x_delta", "x_delta_2"],
    "x = x + 0.3 * f": ["x_delta"],
    "x = x + f * (parameter([d]) as s)": ["x_delta", "x_factor"],
    "x = (x + f) * (parameter([1]) as s)": ["x_delta", "x_factor"],
    "x = x * (parameter([d]) as r) + f": ["x_delta", "x_factor"],
    "x = x * (parameter([d]) as r) + (parameter([d]) as s) * (rms_norm(f, 1e-3) as n - x)": [
        "x_delta",
        "x_delta_weight",
        "x_factor",
        "x_factor_2",
    ],
    "x = x + rms_norm(f, 1e-6) as n": ["x_delta", "x_delta_weight"],
    "x = x + layer_norm(f, 1e-3) as n": ["x_delta", "x_delta_bias", "x_delta_weight"],
    "x = x + rms_norm(f, 1e-3, weight = false)": ["x_delta"],
    "x = x + (rms_norm(f, 1e-3) as n) * 0.6": ["x_delta", "x_delta_weight"],
    "x = x + rms_norm(f, 0) as n": ["x_delta"],  # there is no such norm of zeros, that come first
    "x = (x + f) * 0.5": [],  # nothing to start from gives back x
    "x = cast_like(upcast(x) * (parameter([d], wide = true) as s) + upcast(f) * 0.3, x)": [
        "x_delta",
        "x_factor",
    ],
    "x = x + f + outer": [
        "x_delta",
        "x_delta_2",
    ],  # what all layers are given, but not the first at its start
    "x = x + f + outer * (parameter([d]) as s)": ["x_delta", "x_factor"],
    "x = silu(x + f)": [],
}


@pytest.mark.parametrize("end", MOVED)
def test_what_ends_a_layer_moves(end: str) -> None:
    body = f"""x = embedding(tokens, 9, d) as wte
    {"outer = silu(linear(x, d) as before)" if "outer" in end else ""}
    for i in 0..3 as layers {{
      h = rms_norm(x, 1e-6) as norm
      f = linear(h, d) as up
      {end}
    }}
    return linear(rms_norm(x, 1e-6) as last, 9) as head"""
    assert sorted(_carried(body)) == ["x", *sorted(MOVED[end])]


# Ends of layers of which more is read than the sum, and what is carried for them besides `x`.
ELSEWHERE = {
    "the sum is read in its layer": ("x = x + f * s\n z = z + linear(x, d) as o", []),
    "the sum is handed on": ("x = x + f * s\n z = x", []),
    "the product is read in its layer": ("p = f * s\n x = x + p\n z = linear(p, d) as o", ["x_delta"]),
    "the product is handed on": ("z = f * s\n x = x + z", ["x_delta"]),
    "the norm is handed on": ("z = rms_norm(f, 1e-3) as n\n x = x + z", ["x_delta"]),
    "what enters is handed on": ("z = x\n x = x + f * s", ["x_delta", "x_factor"]),
    "the addend is handed on": ("z = f\n x = x + f * s", ["x_delta", "x_factor"]),
    "the factor is read, too": (
        "s = parameter([d]) as own\n x = x + f * s + f\n z = linear(h * s, d) as o",
        ["x_delta", "x_factor"],
    ),
    "another stream is added": ("y = z\n z = f\n x = x + y", ["x_delta"]),
    "layers differ": ("if i != 1 { x = x + f * s } else { x = x + f }", ["x_delta"]),
    "numbers differ": ("x = x + f * (0.5 + i)", ["x_delta"]),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_what_is_read_elsewhere_stays(case: str) -> None:
    """The other value `z` that layers hand on is a result, too."""
    lines, carried = ELSEWHERE[case]
    body = f"""x = embedding(tokens, 9, d) as wte
    z = linear(x, d) as before
    for i in 0..4 as layers {{
      h = rms_norm(x + linear(z, d) as mixed, 1e-6) as norm
      h = h + rms_norm(x, 1e-3) as other
      f = linear(h, d) as up
      {lines.replace("f * s", "f * (parameter([d]) as factor)")}
    }}
    return x, z, logits = linear(rms_norm(x, 1e-6) as last, 9) as head"""
    assert [name for name in _carried(body) if name.startswith("x_")] == carried


def _carried(body: str) -> list[str]:
    """What the loop of a program carries in the end; all of its stages compute the same."""
    program = program_of(body)
    assert [
        o for o in check_stages(program, Context(standard_rules(), CUDA), each_pass=True) if not o.holds
    ] == []
    (loop,) = staged(program)[0]["loop_edge"].loops()
    return list(loop.attributes["carried"])
