"""What every token goes through beside its experts, as one more of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archc.compiler import standard_rules
from archc.passes.context import Context
from archc.target import CUDA
from archc.verification.packages import stored_tensors
from archc.verification.stages import check_stages
from tests.passes.stages import ops, program_of, saved_and_loaded, staged
from tests.support import build, distance

_MODEL = """
x = embedding(tokens, 50, d) as wte
weights, chosen = top_k(softmax(upcast(linear(x, 5) as router)), 2)
loss even = sum(token_mean(loads(chosen, weights)))
routed = experts e in chosen of 5 as experts {{
  return {routed}
}}
x = x + ({total})
return linear(x, 50) as head
"""
_EXPERT = "linear(silu(linear(x, 12, bias = true) as gate) * linear(x, 12, bias = true) as up, d) as down"
_SHARED = (
    "(linear(linear(x, 12, bias = true) as all.up * silu(linear(x, 12, bias = true) as all.gate), d)"
    " as all.down)"
)
# As wide as three experts, and stored as [in, out].
_WIDE = _SHARED.replace("12, bias = true", "36, bias = true, layout = in_out").replace(
    "d)", "d, layout = in_out)"
)
_GATE = "sigmoid(linear(x, 1) as by)"
TAKEN_IN = {
    "by 1": (f"weights[e] * {_EXPERT}", f"cast_like(routed, x) + {_SHARED}"),
    "rounded": (f"cast_like(weights[e] * {_EXPERT}, x)", f"{_SHARED} + routed"),
    "after a product": (f"weights[e] * {_EXPERT}", f"cast_like(routed * 2.5, x) + {_SHARED}"),
    "by a gate": (f"weights[e] * {_EXPERT}", f"routed + {_GATE} * {_SHARED}"),
    "twice as wide": (f"weights[e] * {_EXPERT}", f"cast_like(routed, x) + {_SHARED.replace('12', '24')}"),
    "three by a gate": (f"weights[e] * {_EXPERT}", f"routed + {_GATE} * {_WIDE}"),
    "weighed before": (
        _EXPERT.replace("linear(x", "linear(cast_like(weights[e] * x, x)"),
        f"routed + {_SHARED}",
    ),
}
APART = {
    "it computes something else": (
        f"weights[e] * {_EXPERT}",
        f"cast_like(routed, x) + {_SHARED.replace('silu', 'gelu')}",
    ),
    "its weight is float[7, 24]": (
        f"weights[e] * {_EXPERT}",
        f"cast_like(routed, x) + {_SHARED.replace('12', '7')}",
    ),
    "it computes something else than they": (
        f"weights[e] * {_EXPERT}".replace(", d)", ", d, bias = true)"),
        f"cast_like(routed, x) + {_SHARED.replace('12', '24').replace(', d)', ', d, bias = true)')}",
    ),
    "start out differently": (
        f"weights[e] * {_EXPERT}",
        f"cast_like(routed, x) + {_SHARED.replace(', d)', ', d, init = normal(1))')}",
    ),
}


def _text(kind: tuple[str, str]) -> str:
    routed, total = kind
    text = _MODEL.format(routed=routed, total=total)
    return (
        text.replace("upcast(linear(x, 5) as router)", "linear(x, 5) as router") if _GATE in total else text
    )


@pytest.mark.parametrize("kind", TAKEN_IN.values(), ids=TAKEN_IN)
def test_it_is_one_more_expert(kind: tuple[str, str]) -> None:
    """Nothing beside the experts is left, and every stage computes what the spec says."""
    program = program_of(_text(kind))
    graphs, context = staged(program)
    assert ops(graphs["layout"]).count("linear") - ops(graphs["shared"]).count("linear") == 3
    assert any(fired.rule == "shared_expert" for fired in context.report.fired)
    outcomes = check_stages(program, Context(standard_rules(), CUDA), each_pass=True)
    assert [outcome for outcome in outcomes if not outcome.holds] == []


@pytest.mark.parametrize(("reason", "kind"), APART.items(), ids=APART)
def test_what_is_not_like_the_experts_stays_apart(reason: str, kind: tuple[str, str]) -> None:
    graphs, context = staged(program_of(_text(kind)))
    assert ops(graphs["layout"]) == ops(graphs["shared"])
    assert any(reason in remark.text for remark in context.report.remarks if remark.pass_name == "shared")


@pytest.mark.parametrize("kind", ["by a gate", "three by a gate"])
def test_checkpoints_and_loads_are_those_of_the_spec(kind: str, tmp_path: Path) -> None:
    """Bit for bit there and back; what every token goes through is not counted among its choices."""
    text = f"arch A(d = 24) {{ forward(tokens: [B, T]) {{ {_text(TAKEN_IN[kind])} }} }}\nmodel a = A()"
    package = build(text, "a", tmp_path)
    model, _, reference = saved_and_loaded(package, tmp_path / "saved")
    tokens = torch.arange(14).view(2, 7)
    loads = []
    for each in (model, reference):
        with package.experts.counted() as counts:
            each.loss(tokens, tokens).backward()
        loads.append(counts)
    assert [load.tolist() for load in loads[0]] == [load.tolist() for load in loads[1]]
    assert distance(model(tokens), reference(tokens)) < 1e-5
    gradients = dict(stored_tensors(model, gradients=True))
    assert all(distance(gradients[n], g) < 1e-5 for n, g in stored_tensors(reference, gradients=True))
