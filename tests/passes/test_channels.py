"""Convolutions of neighbouring parts of one value: one convolution of all their channels."""

from __future__ import annotations

from pathlib import Path

import torch

from archc import compiler
from archc.compiler import standard_rules
from archc.ir.op import OPS
from archc.passes.context import Context
from archc.target import CUDA
from archc.verification.packages import stored_tensors
from archc.verification.stages import check_stages
from tests.passes.stages import ops, staged
from tests.support import build, distance, scramble

# Three are alike, with an activation each; what follows the first differs.  The fourth has other taps.
_SPEC = """
import std
arch A(d = 24) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 50, d) as wte
    q = silu(CausalConv(linear(x, d) as q, 4, bias = true) as q_conv) * 2
    k = silu(CausalConv(linear(x, d) as k, 4, bias = true) as k_conv)
    v = silu(CausalConv(linear(x, 12) as v, 4, bias = true) as v_conv)
    g = CausalConv(linear(x, d) as g, 3, bias = true) as g_conv
    o = linear_attention(split_heads(q, 2), split_heads(k, 2), split_heads(v, 2))
    x = x + linear(merge_heads(o), d) as o + linear(x + g, d) as last
    return linear(x, 50) as head
  }
}
model a = A()
"""


def test_convolutions_side_by_side_are_one() -> None:
    (program,) = compiler.lower_models(compiler.read_spec_text(_SPEC), ["a"])
    graphs, _ = staged(program)
    counts = [ops(graphs[stage]).count("causal_conv") for stage in ("pack", "channels")]
    assert counts == [4, 2]
    kept = [node.types[0].width for node in graphs["channels"].nodes() if node.op is OPS["append"]]
    assert sorted(kept) == [24, 60]
    activated = [n.types[0].width for n in graphs["channels"].nodes() if n.op.name == "silu"]
    assert activated == [60]
    outcomes = check_stages(program, Context(standard_rules(), CUDA), each_pass=True)
    assert [outcome for outcome in outcomes if not outcome.holds] == []


def test_their_checkpoint_and_cache_are_as_before(tmp_path: Path) -> None:
    package = build(_SPEC, "a", tmp_path)
    model = package.Model()
    scramble(model)
    model.save_pretrained(tmp_path / "saved")
    reference = package.Reference.from_pretrained(tmp_path / "saved")
    tensors = dict(stored_tensors(model))
    assert all(torch.equal(tensors[name], tensor) for name, tensor in stored_tensors(reference))
    tokens = torch.arange(14).view(2, 7)
    cache = model.new_cache(2, 7)
    steps = [
        model(tokens[:, :4], cache=cache),
        *(model(tokens[:, t : t + 1], cache=cache) for t in (4, 5, 6)),
    ]
    assert distance(torch.cat(steps, 1), reference(tokens)) < 1e-5
