"""Every fusion: a spec in which it fires, the same values before and after, and a control that must fail."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import pytest
import torch

from archc import compiler
from archc.compiler import standard_rules
from archc.ir.decomposition import Step, StepRef
from archc.ir.family import SPLITS
from archc.ir.op import OPS
from archc.ir.ops.attention import Full
from archc.ir.program import Program
from archc.ir.rule import Rule
from archc.passes.context import Context
from archc.target import CUDA
from archc.verification.outcome import Outcome
from archc.verification.stages import check_stages
from tests.support import few

_HEADS = """
  h = rms_norm(x, 1e-6) as n
  q = split_heads(linear(h, 5 * 8) as q_proj, 5)
  k = split_heads(linear(h, 5 * 8) as k_proj, 5)
  v = split_heads(linear(h, 5 * 8) as v_proj, 5)
"""
_ATTEND = "x = x + linear(merge_heads(attention(q, k, v, mask = causal)), d) as o_proj"
_TWO_ADDENDS = "x = x + linear(x, d) as a + linear(x, d) as b\n"
_SHARED = """
  k = split_heads(linear(x, 8) as latent, 1)
  q = split_heads(linear(x, 5 * 8) as q_proj, 5)
  x = linear(merge_heads(attention(q, k, k, mask = causal)), d) as o_proj"""
_GATED = """
  h = layer_norm(x, 1e-5) as n
  x = x + linear(ACT(linear(h, 33) as gate) * linear(h, 33) as up, d) as down
"""
_BIASED = "x = linear(ACT(linear(x, 33, bias = true) as up), d) as down"

# rule -> the statements of a model in which it fires
_LATENT_ROPE = """
  q_nope, q_pe = split(split_heads(linear(x, 5 * 9) as q_proj, 5), [5, 4])
  c, k_pe = split(linear(x, 11) as kv_proj, [7, 4])
  q = concat(q_nope, rotate(q_pe, rope(theta = 100)))
  k = concat(split_heads(rms_norm(c, 1e-6) as n, 1), rotate(split_heads(k_pe, 1), rope(theta = 100)))
  x = linear(merge_heads(q), d) as o_proj + linear(merge_heads(k), d) as k_out
"""
BODIES = {
    "rms_norm": "x = rms_norm(x, 1e-6, cast = after) as n",
    "add_rms_norm": "x = x + linear(x, d) as a\n h = rms_norm(x, 1e-6) as n\n x = x + h",
    "add_add_rms_norm": _TWO_ADDENDS + "x = x * rms_norm(x, 1e-5, offset = 1) as n",
    "rms_norm_add_rms_norm": """
  x = x + rms_norm(linear(x, d) as a, 1e-6) as m
  x = x * rms_norm(x, 1e-6) as n""",
    "rms_norm_add": "x = x + rms_norm(linear(x, d) as a, 1e-6) as n",
    "layer_norm": "x = layer_norm(x, 1e-5) as n",
    "add_layer_norm": "x = linear(x, d) as a + x\n h = layer_norm(x, 1e-5, bias = false) as n\n x = x + h",
    "add_add_layer_norm": _TWO_ADDENDS + "x = x * layer_norm(x, 1e-5) as n",
    "layer_norm_add_layer_norm": """
  x = layer_norm(linear(x, d) as a, 1e-5, bias = false) as m + x
  x = x * layer_norm(x, 1e-5, bias = false) as n""",
    "layer_norm_add": "x = layer_norm(linear(x, d) as a, 1e-5) as n + x",
    "rope": _HEADS
    + """
  q = rms_norm(merge_heads(q), 1e-6) as qn
  q = rotate(split_heads(q, 5), rope(theta = 100, width = 4))
  k = rotate(silu(k), rope(theta = 100, width = 4))
  """
    + _ATTEND,
    "q_rope": _HEADS + "q = rotate(q, rope(theta = 100))\n" + _ATTEND,
    "q_norm_rope": _HEADS + "q = rotate(rms_norm(q, 1e-6) as qn, rope(theta = 100))\n" + _ATTEND,
    "rope_qkv": _HEADS + "q, k = rotate(q, rope(theta = 100)), rotate(k, rope(theta = 100))\n" + _ATTEND,
    "qk_norm_rope": _HEADS
    + """
  r = rope(theta = 100, pairing = interleaved)
  q, k = rotate(rms_norm(silu(q), 1e-6) as qn, r), rotate(rms_norm(silu(k), 1e-6) as kn, r)
  """
    + _ATTEND,
    "qk_norm_rope_qkv": _HEADS
    + """
  q = rotate(rms_norm(q, 1e-6, offset = 1) as qn, rope(theta = 100))
  k = rotate(rms_norm(k, 1e-6, offset = 1) as kn, rope(theta = 100))
  """
    + _ATTEND,
    "qkv_norm_rope_qkv": _HEADS
    + """
  r = rope(theta = 100, width = 4)
  q, k, v = rms_norm(q, 1e-6) as qn, rms_norm(k, 1e-6) as kn, rms_norm(v, 1e-6, cast = after) as vn
  q, k = rotate(q, r), rotate(k, r)
  """
    + _ATTEND,
    "qk_norm_qkv": _HEADS + "q, k = rms_norm(q, 1e-6) as qn, rms_norm(k, 1e-6) as kn\n" + _ATTEND,
    "rope_qk_norm": _HEADS
    + """
  r = rope(theta = 100, pairing = interleaved)
  q, k = rms_norm(rotate(silu(q), r), 1e-6) as qn, rms_norm(rotate(silu(k), r), 1e-6) as kn
  """
    + _ATTEND,
    "rope_qk_norm_qkv": _HEADS
    + """
  q = rms_norm(rotate(q, rope(theta = 100)), 1e-6, weight = false)
  k = rms_norm(rotate(k, rope(theta = 100)), 1e-6, weight = false)
  """
    + _ATTEND,
    "row_norm_rope_qkv": """
  h = rms_norm(x, 1e-6) as n
  q = rms_norm(linear(h, 5 * 8) as q_proj, 1e-6, offset = 1) as qn
  k = rms_norm(linear(h, 5 * 8) as k_proj, 1e-6, offset = 1) as kn
  q, k = rotate(split_heads(q, 5), rope(theta = 100)), rotate(split_heads(k, 5), rope(theta = 100))
  v = split_heads(linear(h, 5 * 8) as v_proj, 5)
  """
    + _ATTEND,
    "latent_rope": _LATENT_ROPE.replace("linear(x, 5", "linear(silu(x), 5"),
    "latent_rope_qkv": _LATENT_ROPE,
    "position_scale": _HEADS
    + """
  q = cast_like(unsqueeze(unsqueeze(1 + log(1 + upcast(positions(q))))) * q, q)
  """
    + _ATTEND,
    "swiglu": _GATED.replace("ACT", "silu"),
    "geglu_tanh": _GATED.replace("ACT", "gelu_tanh"),
    "geglu": _GATED.replace("ACT", "gelu"),
    "reglu": _GATED.replace("ACT", "relu"),
    "clamped_swiglu": """
  g, u = split_interleaved(linear(x, 66) as joined, 2)
  g, u = minimum(g, 0.7), maximum(minimum(u, 0.7), -0.6)
  x = x + linear(g * (1 + u) * sigmoid(g * 1.5), d) as down
  """,
    "bias_gelu_tanh": _BIASED.replace("ACT", "gelu_tanh"),
    "bias_gelu": _BIASED.replace("ACT", "gelu"),
    "bias_silu": _BIASED.replace("ACT", "silu"),
    "bias_relu": _BIASED.replace("ACT", "relu"),
    "relu_squared": "x = linear(square(relu(linear(x, 33) as up)), d) as down",
    "attention": _HEADS + _ATTEND,
    "shared_attention": _SHARED,
    "shared_alibi_attention": "b = alibi_bias(positions(x), key_positions(x), heads = 5)"
    + _SHARED.replace("causal", "causal, bias = b"),
    "shared_relative_attention": """
  t = parameter([8, 5], init = normal(std = 1)) as table
  b = relative_bias(positions(x), key_positions(x), t, bidirectional = false, distance = 9)"""
    + _SHARED.replace("causal", "causal, bias = b"),
    "latent_attention": """
  k = split_heads(linear(x, 12) as latent, 1)
  v, rest = split(k, [6, 6])
  q = concat(split_heads(linear(x, 5 * 6) as q_proj, 5), split_heads(linear(x, 5 * 6) as q_rest_proj, 5))
  x = linear(merge_heads(attention(q, k, v, mask = causal)), d) as o_proj""",
    "alibi_attention": _HEADS
    + "b = alibi_bias(positions(x), key_positions(x), heads = 5)\n"
    + _ATTEND.replace("causal", "causal, bias = b, softcap = 2"),
    "relative_attention": _HEADS
    + """
  t = parameter([8, 5], init = normal(std = 1)) as table
  b = relative_bias(positions(x), key_positions(x), t, bidirectional = true, distance = 9)
  """
    + _ATTEND.replace("causal", "full, bias = b"),
    "distance_attention": _HEADS
    + """
  t = linear(split_heads(linear(x, 5 * 4) as r_proj, 5), 3) as distances
  b = distance_bias(positions(x), key_positions(x), t, first = -1, beyond = nearest)
  """
    + _ATTEND.replace("causal", "causal, bias = b, softcap = 2"),
}
BODIES["select_keys"] = (
    _HEADS
    + "among = chosen_keys(q, split_heads(linear(h, 8) as key, 1), linear(h, 5) as weights, 3)\n"
    + _ATTEND.replace("causal", "causal, among = among")
)
RULES = {rule.name: rule for rule in standard_rules()}


def _program(body: str) -> Program:
    forward = f"forward(tokens: [B, T]) {{ x = embedding(tokens, 50, d) as wte\n{body}\nreturn x }}"
    text = f"arch A(d = 44) {{ {forward} }}\nmodel a = A()"
    (program,) = compiler.lower_models(compiler.read_spec_text(text), ["a"])
    return program


def _outcomes(program: Program, rules: tuple[Rule, ...]) -> tuple[list[Outcome], set[str]]:
    """What the last stage gives against the first, and which rules fired."""
    context = Context(rules, CUDA)
    outcomes = list(check_stages(program, context, each_pass=False))
    return outcomes, {fired.rule for fired in (*context.report.fired, *context.report.absorbed)}


def test_every_rule_has_a_body() -> None:
    assert BODIES.keys() == RULES.keys()


@pytest.mark.parametrize("name", BODIES)
def test_values_stay(name: str) -> None:
    outcomes, fired = _outcomes(_program(BODIES[name]), standard_rules())
    assert name in fired
    assert [outcome for outcome in outcomes if not outcome.holds] == []


@pytest.mark.parametrize("name", few(BODIES, 15))
def test_a_wrong_fusion_is_found(name: str) -> None:
    """The same checks against a fused op that means something else."""
    rule = RULES[name]
    wrong = next(_mutants(rule))
    rules = tuple(wrong if other is rule else other for other in standard_rules())
    outcomes, fired = _outcomes(_program(BODIES[name]), rules)
    assert name in fired
    failed = [outcome for outcome in outcomes if outcome.check == "float64" and not outcome.holds]
    assert failed
    assert failed[0].detail.startswith("pass `fuse`")


_REST = "split_heads(linear(x, 5 * 6) as q_rest_proj, 5)"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (_REST, f"{_REST.replace('6', '4')}, {_REST.replace('6', '2').replace('rest', 'end')}", "3 operands"),
        ("5 * 6", "5 * PARTS", "lie in other parts"),
    ],
)
def test_queries_lie_apart_as_keys_and_values_do(old: str, new: str, reason: str) -> None:
    """Otherwise attention is of whole queries."""
    body = BODIES["latent_attention"].replace(old, new).replace("PARTS", "4", 1).replace("PARTS", "8", 1)
    context = Context(standard_rules(), CUDA)
    outcomes = list(check_stages(_program(body), context, each_pass=False))
    assert [outcome for outcome in outcomes if not outcome.holds] == []
    assert {fired.rule for fired in context.report.fired} & {"attention", "latent_attention"} == {"attention"}
    missed = [miss.reason for miss in context.report.attempts if miss.rule == "latent_attention"]
    assert any(reason in each for each in missed)


_OTHER_OP = {
    "add": "sub",
    "mul": "add",
    "silu": "gelu",
    "gelu": "silu",
    "gelu_tanh": "relu",
    "relu": "silu",
    "square": "absolute",
}


def _mutants(rule: Rule) -> Iterator[Rule]:
    """Rules with the same pattern whose fused op computes something near to it."""
    for place in reversed(range(len(rule.steps))):
        step = _mutated(rule.steps[place])
        if step is not None:
            steps = (*rule.steps[:place], step, *rule.steps[place + 1 :])
            impostor = dataclasses.replace(rule)
            impostor.__dict__["op"] = dataclasses.replace(rule, steps=steps).op
            yield impostor


def _mutated(step: Step) -> Step | None:
    if step.op.name in _OTHER_OP:
        return dataclasses.replace(step, op=OPS[_OTHER_OP[step.op.name]])
    if step.op.name == "rotate_by":
        x, cos, sin = step.inputs
        return dataclasses.replace(step, inputs=(x, sin, cos))
    if step.op.name == "attend":
        q, k, v, *rest = step.inputs
        if isinstance(v, StepRef):  # values that are columns of the keys: others of them
            return dataclasses.replace(step, inputs=(q, k, StepRef(v.step, 1), *rest))
        if k == v:  # nothing to exchange
            return dataclasses.replace(step, attributes={**step.attributes, "scale": 2.0})
        return dataclasses.replace(step, inputs=(q, v, k, *rest))
    if step.op.name == "select_keys":
        return dataclasses.replace(step, attributes={**step.attributes, "mask": Full()})
    if step.op.name in ("rms_norm", "layer_norm"):
        return dataclasses.replace(step, attributes={**step.attributes, "eps": 1e-2})
    return None


@pytest.mark.parametrize("name", ["bias_gelu_tanh", "geglu_tanh", "swiglu", "clamped_swiglu", "relu_squared"])
def test_gradients_of_rules_match_autograd(name: str) -> None:
    """The chain rule over a rule's decomposition gives what autograd gives on its reference."""
    from archc.codegen.kernels.rows.pointwise import analyse
    from archc.ir.types import DType, TensorType

    rule = RULES[name]
    width = {"gate_up": 10, "x": 5, "bias": 5}
    types = {n: TensorType(("B", "T", width[n]) if n != "bias" else (5,), DType.FLOAT) for n in rule.operands}
    numbers = {"limit": 0.7, "lowest": -0.6, "alpha": 1.5}
    attributes = {n: numbers[n] for n in rule.attributes}
    pointwise = analyse(rule.decompose(types, attributes))
    shapes = {n: (5,) if n == "bias" else (2, 3, width[n]) for n in rule.operands}
    operands = [torch.randn(shapes[n], dtype=torch.float64, requires_grad=True) for n in rule.operands]
    (y,) = rule.op.reference(*operands, **attributes)
    gradients = torch.autograd.grad(y, operands, torch.ones_like(y))
    values = {**_leaves(rule, operands), "dy": torch.ones_like(y)}
    computed = {leaf: evaluate(formula, values) for leaf, formula in pointwise.gradients.items()}
    for leaf, expected in _leaves(rule, gradients).items():
        if leaf != "bias":  # its gradient is a sum over rows
            torch.testing.assert_close(computed[leaf], expected)


@pytest.mark.parametrize(
    ("body", "family"),
    [
        ("g, u = split_interleaved(x, 2)\n y = silu(g) * u", "pointwise"),
        ("g, u = split(x, 2)\n y = minimum(g, limit) * u", "pointwise"),
        ("g, u, t = split(x, 3)\n y = silu(g) * u + t", "pointwise"),
        ("g, u, t = split_interleaved(x, 3)\n y = silu(g) * u + t", ""),
        ("g, u = split_interleaved(silu(x), 2)\n y = g * u", ""),
        ("g, u = split(x, 2)\n a, b = split_interleaved(x, 2)\n y = g * u + a * b", ""),
    ],
)
def test_kernels_take_operands_apart(body: str, family: str) -> None:
    """In parts one after another or in pairs, each operand once."""
    attributes = "; limit" if "limit" in body else ""
    text = f"fuse own(x{attributes}) {{\n {body}\n return y\n}}"
    rule = next(rule for rule in compiler.read_spec_text(text).rules if rule.name == "own")
    assert rule.family == family


def _leaves(rule: Rule, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Operands, or gradients of them, by name, with the parts of one that is split first."""
    first = rule.steps[0]
    if first.op.name not in SPLITS:
        return dict(zip(rule.operands, tensors, strict=True))
    return dict(zip(first.names, first.op.reference(*tensors, **first.attributes), strict=True))


def evaluate(formula: object, values: dict[str, torch.Tensor]) -> torch.Tensor:
    """A formula with tensors for its leaves."""
    if not hasattr(formula, "op"):
        return torch.tensor(formula, dtype=torch.float64)
    if formula.op == "leaf":
        name = formula.args[0]
        return values[name] if name in values else torch.tensor(float(name), dtype=torch.float64)
    return OPS[formula.op].reference(*(evaluate(argument, values) for argument in formula.args))
