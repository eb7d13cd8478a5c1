"""Chains of elementwise ops that no fusion names: one op, and its kernel in Triton's interpreter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.codegen.fused_ops import check_bfloat16, check_float32, fused_ops
from tests.codegen.interpreter import interpreted
from tests.support import build, compile_model, compile_quickly, distance, needs_compiler

SPEC = """
arch A(d = 24, limit = 0.8) {
  forward(x: float[B, T, d], y: float[B, T, d], z: float[B, T, d]) {
    h = linear(x, d) as up
    clipped = maximum(minimum(linear(y, d) as clip, limit), -limit)
    gated = tanh(linear(x, d) as gate * parameter([d]) as slope) * 2 - exp(neg(h * h))
    wide = upcast(linear(z, d) as wide)
    normed = cast_like(wide * rsqrt(mean(wide * wide) + 0.1), x)
    return linear(clipped, d) as a + linear(gated, d) as b * 0.5 + linear(normed, d) as c
  }
}
model a = A()
"""
# The third keeps nothing for its gradient; of the last nothing but its dtype would be read of x.
NAMES = ["minimum_maximum", "mul_tanh_sub", "mul_add", "mul_mean_rsqrt"]


def _ops(text: str) -> list[str]:
    fused = compile_model(text, "m").fused
    return [node.op.name for part in fused.walk() for node in part.nodes()]


@pytest.mark.parametrize("name", NAMES)
@interpreted
def test_a_joined_op_is_its_decomposition(name: str, tmp_path: Path) -> None:
    op = fused_ops(SPEC, "a", tmp_path)[name]
    check_float32(op)
    check_bfloat16(op)


def test_parameters_are_called_as_in_checkpoints_and_equal_ops_share_a_kernel(tmp_path: Path) -> None:
    text = """arch A(d = 24) { forward(x: float[B, T, d]) {
      first = tanh(linear(x, d) as one * parameter([d]) as one.slope)
      second = tanh(linear(first, d) as two * parameter([d]) as two.bend)
      return linear(second, d) as three } } model m = A()"""
    build(text, "m", tmp_path)
    (kernels,) = tmp_path.rglob("kernels.py")
    joined = re.findall(r"^def (\w*tanh\w*)(\(.*)", kernels.read_text(), re.MULTILINE)
    assert [given for name, given in joined if name == "mul_tanh"] == [
        "(x: Tensor, slope: Tensor) -> Tensor:"
    ]
    assert not any(name.startswith("mul_tanh_2") for name, _ in joined)


STOPPED = """arch A(d = 24) { forward(x: float[B, T, d]) {
  return linear(GATE * linear(x, d) as b, d) as c } } model m = A()"""


@pytest.mark.parametrize("gate", ["stop_gradient(sqrt(A))", "step(A)", "floor(exp(sqrt(A)))"])
@pytest.mark.parametrize("width", ["1", "d"])
@interpreted
def test_no_gradient_is_nothing_where_a_slope_has_no_end(width: str, gate: str, tmp_path: Path) -> None:
    """A stopped gradient is a zero; times the slope of a root at 0 it would be no number."""
    text = STOPPED.replace("GATE", gate.replace("A", f"linear(x, {width}) as a"))
    (op,) = fused_ops(text, "m", tmp_path).values()
    x, y = (torch.randn(2, 5, op.operands[place].shape[-1]) for place in (0, 1))
    given = [x.relu().requires_grad_(), torch.ones_like(y).requires_grad_()]
    (result,) = op.fused(*given)
    dx, dy = torch.autograd.grad(result, given, torch.ones_like(result))
    assert not dx.any()
    assert torch.equal(dy, result)


@interpreted
def test_a_vector_without_a_slope_has_zeros_for_a_gradient(tmp_path: Path) -> None:
    """Only the sum over rows is as wide as the vector then, which is no power of two."""
    text = """arch A(d = 24) { forward(x: float[B, T, d]) {
      a, far = tanh(linear(x, 1) as a), parameter([10]) as far
      return linear(step(a - far), d) as b, a } } model m = A()"""
    (op,) = fused_ops(text, "m", tmp_path).values()
    given = [torch.randn(2, 5, 1, requires_grad=True), torch.randn(10, requires_grad=True)]
    a, steps = op.fused(*given)
    da, dfar = torch.autograd.grad((a, steps), given, (torch.ones_like(a), torch.ones_like(steps)))
    assert distance(da, 1 - a**2) < 1e-6
    assert torch.equal(dfar, torch.zeros(10))


def test_casts_by_themselves_are_an_op_with_a_name() -> None:
    ops = _ops(
        "arch A() { forward(tokens: [B, T]) { h = embedding(tokens, 9, 24) as e"
        " q, k, v = split(split_heads(h, 2), 3)"
        " o = linear_attention(upcast(q), upcast(k), upcast(v))"
        " return linear(merge_heads(cast_like(o, q)), 9) as head } } model m = A()"
    )
    assert "upcast" in ops
    assert "" not in ops


def test_what_is_read_elsewhere_ends_a_chain() -> None:
    ops = _ops(
        "arch A() { forward(x: float[B, T, 8]) { a = exp(linear(x, 8) as up) * 2"
        " return linear(sigmoid(a) + 1, 8) as down * a } } model m = A()"
    )
    assert {"exp_mul", "sigmoid_add"} < set(ops)


_NORM = "rms_norm(x, 1e-6) as n"


@pytest.mark.parametrize(
    ("body", "joined"),
    [
        ("share = sigmoid(linear(x, 1) as gate) x = share * tanh(x) + 1", ["linear_sigmoid_add"]),
        ("x = x + linear(x, d) as a * 0.3 h = NORM x = x * linear(h, d) as b", ["mul_add_rms_norm", "mul"]),
        ("x = (NORM) * silu(linear(x, d) as gate)", ["rms_norm_silu_mul"]),
        ("x = NORM + x + linear(x, d) as a", ["rms_norm_add_add"]),
        ("g, u = split(linear(x, 2 * d) as a, 2) x = silu(g) * u x = NORM", ["swiglu_rms_norm"]),
        (  # what its gradient reads would not fit in registers
            "g, u = split(linear(x, 16384) as a, 2) x = silu(g) * u x = NORM",
            ["swiglu", "rms_norm"],
        ),
        ("x = sigmoid(linear(x, 3) as a) * linear(x, 3) as b", ["sigmoid_mul"]),
        (
            "a = NORM x = linear(a, d) as b * a",
            ["rms_norm", "mul"],
        ),  # the product needs what follows the norm
        (
            "x = x * cast_like(softplus(upcast(linear(x, 1) as a)), x)",
            ["linear_softplus_mul"],
        ),  # casts are free
        (  # and a vector may be float32
            "x = cast_like(upcast(x) * parameter([d], wide = true) as w, x) x = NORM",
            ["parameter", "mul_rms_norm"],
        ),
        ("x = x + linear(x, d) as a + linear(x, d) as b", ["add", "add"]),  # gradients of sums cost nothing
        (
            "x = NORM * 2 x = linear(x, 9000) as a y = rms_norm(x, 1e-6) as m x = y * 2",
            ["rms_norm_mul", "rms_norm", "mul"],
        ),
    ],
)
def test_rows_are_computed_together(body: str, joined: list[str]) -> None:
    """What one program can hold a row of, whatever the shapes that are broadcast to it."""
    body = body.replace("NORM", _NORM)
    forward = f"forward(x: float[B, T, d]) {{ {body} return linear(x, 8) as down }}"
    ops = _ops(f"arch A(d = 8) {{ {forward} }} model m = A()")
    assert [op for op in ops if op not in ("input", "weight", "linear", "constant", "split")] == joined


# What a sequence has for all its tokens, as the class and the time of DiT: vectors and a number.
OF_SEQUENCES = """
arch A(d = 24, heads = 2) {
  forward(x: float[B, T, d], c: float[B, d], share: float[B]) {
    shift, scale = split(linear(transpose(unsqueeze(c)), 2 * d) as modulation, 2)
    h = rms_norm(x + linear(x, d) as a * scale, 1e-6) as norm * (1 + scale) + shift
    each = split_heads(linear(h, d) as b, heads)
    gain = transpose(unsqueeze(linear(transpose(unsqueeze(c)), d / heads) as gain))
    y = merge_heads(rms_norm(each, 1e-6) as head_norm * gain)
    return linear(y, d) as out * unsqueeze(unsqueeze(share)) - x
  }
}
model a = A()
"""


@pytest.mark.parametrize("name", ["mul_add_rms_norm_add", "rms_norm_mul", "mul_sub"])
@interpreted
def test_what_a_sequence_has_meets_its_rows(name: str, tmp_path: Path) -> None:
    op = fused_ops(OF_SEQUENCES, "a", tmp_path)[name]
    check_float32(op)
    check_bfloat16(op)


# Rows that are single numbers, of a tensor with a dim less.
NUMBERS = """
arch A(d = 24) {
  forward(x: float[B, T, d]) {
    ridge = parameter([d, 1]) as ridge
    return linear(squeeze(unsqueeze(silu(linear(x, d) as a)) * ridge + ridge), d) as b
  }
}
model a = A()
"""


@needs_compiler
@pytest.mark.parametrize(
    ("spec", "names", "shapes"),
    [
        (OF_SEQUENCES, {"mul_add_rms_norm_add", "rms_norm_mul", "mul_sub"}, [(3, 5, 24), (3, 24), (3,)]),
        (NUMBERS, {"silu_mul_add"}, [(3, 5, 24)]),
    ],
)
def test_native_code_finds_rows(
    spec: str,
    names: set[str],
    shapes: list[tuple[int, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compile_quickly(tmp_path, monkeypatch)
    package = build(spec, "a", tmp_path)
    model = package.Model()
    given = [torch.randn(shape) for shape in shapes]
    truth = model(*given)
    native = package.native
    called: list[str] = []
    call = native.call
    monkeypatch.setattr(native, "call", lambda name, *rest: (called.append(name), call(name, *rest)))
    assert native.build()
    with torch.no_grad():
        assert distance(model(*given), truth) < 1e-6
    assert names <= set(called)


PLACES = """
fuse gated_norm(x, g; eps) {
  y = rms_norm(x * g, eps)
  return y
}
arch A(d = 12) {
  forward(tokens: [B, T]) {
    x, p = embedding(tokens, 40, d) as wte, embedding(positions(tokens), 16, d) as wpe
    x, g = linear(concat(p, x), d) as mix, linear(p, 1) as gate
    x = rms_norm(x * g, 1e-5) as gated
    x = layer_norm(cast_like(upcast(x) * parameter([d], wide = true) as wide, x), 1e-5) as scaled
    for i in 0..2 as layers { x = x + linear(rms_norm(x + p, 1e-5) as norm, d) as up }
    x = layer_norm(p + x, 1e-5) as last
    y = exp(tanh(x) * p) - sigmoid(p) * 2
    return linear(silu(p) * y + rms_norm(p, 1e-5) as alone, 40) as head
  }
}
model a = A()
"""


@interpreted
def test_what_stands_once_for_all_sequences_is_no_row_of_theirs(tmp_path: Path) -> None:
    """Without padding positions are those of a single sequence, [1, T]."""
    package = build(PLACES, "a", tmp_path)
    fused, plain = package.Model(), package.Reference()
    plain.load_state_dict(fused.state_dict())
    tokens = torch.randint(0, 40, (3, 16))
    padding = torch.ones_like(tokens, dtype=torch.bool)
    truth = plain(tokens)
    for y in (fused(tokens), fused(tokens, padding=padding)):
        assert distance(y, truth) < 1e-6
    for model in (fused, plain):
        model.loss(tokens, tokens).backward()
    for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        assert distance(ours.grad, theirs.grad) < 1e-5


@interpreted
def test_the_gradient_of_a_vector_in_float32_is_not_rounded(tmp_path: Path) -> None:
    """Beside rows of bfloat16 it has all digits of its own dtype."""
    model = build(PLACES, "a", tmp_path).Model(dtype=torch.bfloat16)
    tokens = torch.randint(0, 40, (1, 4))
    model.loss(tokens, tokens).backward()
    (wide,) = (parameter for parameter in model.parameters() if parameter.dtype is torch.float32)
    assert wide.grad is not None
    assert not torch.equal(wide.grad, wide.grad.bfloat16().float())


def test_what_bends_logits_is_left_to_the_loss() -> None:
    ops = _ops(
        "arch A() { forward(tokens: [B, T]) { x = embedding(tokens, 9, 8) as embed"
        " return 5 * tanh(linear(x, 9) as head / 5) } } model m = A()"
    )
    assert {"mul", "tanh", "div"} < set(ops)


def test_a_number_before_the_sum_at_a_layers_end_meets_the_next_norm() -> None:
    """Layers whose results are scaled have as many kernels as others: none is for the product alone."""
    body = "x = x + 0.3 * linear(rms_norm(x, 1e-6) as n, d) as up"
    loop = f"for i in 0..3 as h {{ {body} }}"
    forward = (
        f"forward(tokens: [B, T]) {{ x = embedding(tokens, 9, d) as wte {loop} return linear(x, 9) as head }}"
    )
    fused = compile_model(f"arch A(d = 8) {{ {forward} }} model m = A()", "m").fused
    (layer,) = [body for loop in fused.loops() for body in loop.bodies]
    names = [node.op.name for node in layer.nodes() if node.op.name not in ("input", "weight", "constant")]
    assert names == ["mul_add_rms_norm", "linear"]
