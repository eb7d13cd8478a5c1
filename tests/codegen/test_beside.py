"""Ops on rows that read parts of one value, in one kernel: what they compute, and where they stay apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from archc.ir.rule import rule_of
from tests.codegen.fused_ops import check_bfloat16, check_float32, fused_ops
from tests.codegen.interpreter import interpreted
from tests.support import compile_model

# Gates of which one is float32 and one is not, and keys and queries of length 1.
SPEC = """
arch A(d = 24, heads = 2) {
  block unit(x) {
    h = upcast(x)
    return h * rsqrt(sum(h * h) + 0.1)
  }

  forward(tokens: [B, T]) {
    x = embedding(tokens, 40, d) as wte
    q, k, v, gates = split(linear(x, 76) as qkv, [24, 24, 24, 4])
    a, b = split(gates, 2)
    step = softplus(upcast(a) + parameter([heads], wide = true) as bias)
    q, k = unit(split_heads(q, heads)), unit(split_heads(k, heads))
    o = linear_attention(q, k, split_heads(v, heads), log_decay = -step, beta = sigmoid(b))
    return linear(x + linear(merge_heads(o), d) as out, 40) as head
  }
}
model a = A()
"""

# Values times a gate of each head, which decays read as well: a number of each row is a result like the rows.
WITH_NUMBERS = SPEC.replace(
    "split_heads(v, heads), log", "split_heads(v, heads) * unsqueeze(cast_like(step, x)), log"
)


def _ops(body: str) -> list[str]:
    forward = f"forward(x: float[B, T, d]) {{ {body} return linear(x, 8) as down }}"
    fused = compile_model(f"arch A(d = 16) {{ {forward} }} model m = A()", "m").fused
    ops = [node.op.name for part in fused.walk() for node in part.nodes()]
    return [op for op in ops if op not in ("input", "weight", "linear", "constant", "split")]


@pytest.mark.parametrize(
    ("spec", "name", "outputs"),
    [
        (SPEC, "mul_sum_rsqrt", 2),
        (SPEC, "add_softplus_neg_sigmoid", 2),
        (WITH_NUMBERS, "mul_sum_rsqrt_add_softplus_neg_mul", 4),
    ],
)
@interpreted
def test_ops_beside_each_other_are_their_decomposition(
    spec: str, name: str, outputs: int, tmp_path: Path
) -> None:
    op = fused_ops(spec, "a", tmp_path)[name]
    assert len(op.outputs) == outputs
    check_float32(op)
    check_bfloat16(op)


def test_what_is_cast_for_several_kernels_is_read_as_it_was() -> None:
    """No kernel writes float32 for another that may as well read what was cast, and cast it again."""
    values = "values = upcast(split_heads(v, heads))\n"
    text = WITH_NUMBERS.replace("    o = ", f"    {values}    o = ").replace(
        "split_heads(v, heads) *", "values *"
    )
    text = text.replace("beta = sigmoid(b))", "beta = sigmoid(b)) + values").replace(
        "cast_like(step, x)", "step"
    )
    text = text.replace("merge_heads(o)", "merge_heads(cast_like(o, x))")
    nodes = compile_model(text, "a").fused.nodes()
    results = {node.op.name: len(node.types) for node in nodes if rule_of(node) is not None}
    assert results == {"mul_sum_rsqrt_add_softplus_neg_mul": 4, "add": 1}


@pytest.mark.parametrize(
    ("body", "joined"),
    [
        (  # norms of one value: it is read once
            "x = linear(rms_norm(x, 1e-6) as a, d) as b + linear(rms_norm(x, 1e-5) as c, d) as e",
            ["rms_norm", "add"],
        ),
        (  # rows of other widths
            "g, u = split(linear(x, 24) as a, [16, 8])"
            " x = linear(rms_norm(g, 1e-6) as b, d) as c + linear(rms_norm(u, 1e-6) as e, d) as f",
            ["rms_norm", "rms_norm", "add"],
        ),
        (  # of other values
            "g, u = linear(tanh(x), d) as a, linear(exp(x), d) as b"
            " x = linear(rms_norm(g, 1e-6) as c, d) as e + linear(rms_norm(u, 1e-6) as f, d) as g",
            ["tanh_exp", "rms_norm", "rms_norm", "add"],
        ),
        (  # one is made of the other, through what is no op on rows
            "h = rms_norm(x, 1e-6) as a x = linear(x * sigmoid(linear(h, d) as b), d) as c",
            ["rms_norm", "sigmoid_mul"],
        ),
    ],
)
def test_what_is_computed_beside_each_other(body: str, joined: list[str]) -> None:
    assert _ops(body) == joined
