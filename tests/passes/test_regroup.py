"""Rows of linear maps that lie head by head: in another order where a part of all heads is wanted whole."""

from __future__ import annotations

from pathlib import Path

import torch

from archc.compiler import standard_rules
from archc.ir.node import stored_in
from archc.passes.context import Context
from archc.target import CUDA
from archc.verification.packages import stored_tensors
from archc.verification.stages import check_stages
from tests.passes.stages import ops, program_of, saved_and_loaded, staged
from tests.support import build, distance

# Queries and values are rows over all heads, keys are read by heads; the weight is stored as [in, out].
_BY_HEADS = """
x = embedding(tokens, 50, d) as wte
by_heads = split_heads(linear(x, 56, bias = true, layout = in_out) as qkv, 4)
q, k, v = split(by_heads, [4, 4, 6])
q = split_heads(silu(merge_heads(q)), 4)
v = split_heads(concat(merge_heads(v), merge_heads(v)), 4)
x = x + linear(merge_heads(attention(q, k, v, mask = causal)), d) as o
return linear(x, 50) as head
"""


def test_parts_of_heads_that_are_merged_are_parts_of_the_row() -> None:
    program = program_of(_BY_HEADS)
    graphs, context = staged(program)
    assert ops(graphs["layout"]).count("merge_heads") > ops(graphs["regroup"]).count("merge_heads") == 1
    orders = {stored.heads: stored.parts for n in graphs["regroup"].weights() for stored in stored_in(n)}
    assert orders == {0: (), 4: (4, 4, 6)}
    assert any("part by part" in remark.text for remark in context.report.remarks)
    outcomes = check_stages(program, Context(standard_rules(), CUDA), each_pass=True)
    assert [outcome for outcome in outcomes if not outcome.holds] == []


def test_checkpoints_have_rows_head_by_head(tmp_path: Path) -> None:
    """Bit for bit there and back; the model computes what its reference does from the same file."""
    text = f"arch A(d = 24) {{ forward(tokens: [B, T]) {{ {_BY_HEADS} }} }}\nmodel a = A()"
    model, again, reference = saved_and_loaded(build(text, "a", tmp_path), tmp_path / "saved")
    tokens = torch.arange(14).view(2, 7)
    assert distance(model(tokens), reference(tokens)) < 1e-5
    for each in (again, reference):
        each.loss(tokens, tokens).backward()
    gradients = dict(stored_tensors(again, gradients=True))
    assert all(distance(gradients[n], g) < 1e-5 for n, g in stored_tensors(reference, gradients=True))


def test_rows_stay_where_all_parts_are_read_by_heads() -> None:
    body = _BY_HEADS.replace("split_heads(silu(merge_heads(q)), 4)", "silu(q)")
    body = body.replace("split_heads(concat(merge_heads(v), merge_heads(v)), 4)", "v")
    graphs, _ = staged(program_of(body))
    assert not any(s.heads for n in graphs["clean"].weights() for s in stored_in(n))


def test_neighbouring_parts_put_together_are_one_part() -> None:
    """Also where one of them is read by itself, and where all of them are the whole."""
    body = """
    x = embedding(tokens, 50, d) as wte
    a, b, c = split(linear(x, d) as up, [8, 8, 8])
    x = x + linear(concat(b, c), d) as first + linear(concat(a, b, c), d) as second + concat(c, b, a)
    return linear(x, 50) as head
    """
    program = program_of(body)
    graphs, _ = staged(program)
    assert ops(graphs["layout"]).count("concat") == 3
    assert ops(graphs["regroup"]).count("concat") == 1
    outcomes = check_stages(program, Context(standard_rules(), CUDA), each_pass=True)
    assert [outcome for outcome in outcomes if not outcome.holds] == []
