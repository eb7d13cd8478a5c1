"""What all sequences share has rows of a single one: no kernel goes through it beside rows of all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archc.ir.rule import rule_of
from tests.passes.stages import program_of, staged
from tests.support import build, compile_quickly, distance, needs_compiler

# In the second a loop starts with what all share and goes on with what they share, in the third it does not.
BODIES = {
    "sinusoid": """
x = embedding(tokens, 50, d) as wte
x = x + sinusoid(x, positions(x))
return linear(x * sigmoid(tanh(x)), 50) as head
""",
    "shared": """
x = embedding(tokens, 50, d) as wte
p = embedding(positions(x), 64, d) as wpe
for i in 0..3 as layers {
  y = tanh(p)
  x = x + sigmoid(y) * x
  p = linear(y, d) as p
}
return linear(x, 50) as head
""",
    "mixed": """
x = embedding(tokens, 50, d) as wte
p = embedding(positions(x), 64, d) as wpe
for i in 0..3 as layers {
  x = x + sigmoid(tanh(p)) * x
  p = linear(p + x, d) as p
}
return linear(x, 50) as head
""",
    "queries": """
x = embedding(tokens, 50, d) as wte
q = split_heads(linear(embedding(positions(x), 64, d) as wpe, d) as q, 4)
k, v = split_heads(linear(x, d) as k, 4), split_heads(linear(x, d) as v, 4)
q, k = rotate(q, rope(theta = 100)), rotate(k, rope(theta = 100))
return linear(merge_heads(attention(q, k, v, mask = causal)), 50) as head
""",
    "recurrence": """
x = embedding(tokens, 50, d) as wte
q = split_heads(linear(embedding(positions(x), 64, d) as wpe, d) as q, 4)
k, v = split_heads(linear(x, d) as k, 4), split_heads(linear(x, d) as v, 4)
return linear(merge_heads(linear_attention(q, k, v)), 50) as head
""",
}


@pytest.mark.parametrize(
    ("name", "kept", "fused"),
    [
        ("sinusoid", ["add"], {"tanh_sigmoid_mul"}),
        ("shared", ["tanh", "sigmoid", "mul", "add"], set()),
        ("mixed", ["mul", "add", "add"], {"tanh_sigmoid"}),
        ("queries", [], {"attention", "q_rope"}),
    ],
)
def test_no_kernel_reads_both(name: str, kept: list[str], fused: set[str]) -> None:
    graph = staged(program_of(BODIES[name]))[0]["clean"]
    nodes = [node for part in graph.walk() for node in part.nodes()]
    assert [node.op.name for node in nodes if node.op.is_pointwise] == kept
    assert {node.op.name for node in nodes if rule_of(node) is not None} == fused


@needs_compiler
@pytest.mark.parametrize("name", BODIES)
def test_native_code_reads_rows_that_are_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_quickly(tmp_path, monkeypatch)
    text = f"arch A(d = 24) {{ forward(tokens: [B, T]) {{ {BODIES[name]} }} }}\nmodel a = A()"
    package = build(text, "a", tmp_path)
    assert package.native.build()
    model, tokens = package.Model(), torch.randint(50, (3, 7))
    model.save_pretrained(tmp_path / "weights")
    reference = package.Reference.from_pretrained(tmp_path / "weights", dtype=torch.float64)
    with torch.no_grad():
        truth, cache = reference(tokens), model.new_cache(3, 7)
        steps = [model(token, cache=cache) for token in tokens.split(1, 1)]
        for value in (model(tokens), torch.cat(steps, 1)):
            assert distance(value, truth) < 1e-5


def test_a_recurrence_reads_rows_of_all_sequences() -> None:
    nodes = program_of(BODIES["recurrence"]).graph.nodes()
    assert [node.op.name for node in nodes].count("repeat_sequence") == 1
