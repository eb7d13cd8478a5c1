"""Views of heads before elementwise ops, where these are then on rows with what follows."""

from __future__ import annotations

import pytest

from archc.compiler import standard_rules
from archc.ir.op import Trait
from archc.ir.rule import rule_of
from archc.passes.context import Context
from archc.target import CUDA
from archc.verification.stages import check_stages
from tests.passes.stages import ops, program_of, staged

_GATED = """
x = embedding(tokens, 50, d) as wte
heads = split_heads(linear(x, d) as heads, 4)
gates = sigmoid(GATES)
x = rms_norm(merge_heads(gates) * x, 1e-6) as norm
return linear(x, 50) as head
"""
_BIASED = _GATED.replace("GATES", "heads + parameter([4, 6]) as bias")


@pytest.mark.parametrize(
    ("gates", "apart"),
    [
        ("heads + parameter([4, 6]) as bias", []),
        ("heads + parameter([4, 1]) as bias", ["add"]),  # a number of each head
        ("heads + parameter([6]) as bias", ["add"]),  # a vector for all heads
    ],
)
def test_gates_by_heads_are_gates_of_rows(gates: str, apart: list[str]) -> None:
    """One kernel has all that is elementwise, but what is not of whole rows."""
    program = program_of(_GATED.replace("GATES", gates))
    fused = staged(program)[0]["clean"].nodes()
    assert [node.op.name for node in fused if node.op.has(Trait.ELEMENTWISE)] == apart
    assert sum(rule_of(node) is not None for node in fused) == 1
    outcomes = check_stages(program, Context(standard_rules(), CUDA), each_pass=True)
    assert [outcome for outcome in outcomes if not outcome.holds] == []


def test_what_others_read_by_heads_stays_by_heads() -> None:
    body = _BIASED.replace("* x,", "* x + linear(merge_heads(softmax(gates)), d) as other,")
    before, after = (ops(staged(program_of(each))[0]["views"]) for each in (body, _BIASED))
    assert after.index("merge_heads") < after.index("sigmoid")
    assert before.index("merge_heads") > before.index("sigmoid")
