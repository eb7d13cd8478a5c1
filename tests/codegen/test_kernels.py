"""Every kind of fused kernel in Triton's interpreter, forward and backward, against float64."""

from __future__ import annotations

import atexit
import functools
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.verification.packages import stored_tensors
from tests.codegen.fused_ops import (
    DRAWS,
    FusedOp,
    Tensors,
    changed,
    check_bfloat16,
    check_float32,
    fused_ops,
    inputs,
    results,
)
from tests.codegen.interpreter import interpreted
from tests.codegen.kernel_cases import CASES, FIRST, RULES, rule_of_case, spec_of_case
from tests.codegen.registered import check_op
from tests.support import SPECS, build, distance, few, scramble

NORMS = [name for name in CASES if RULES[rule_of_case(name)] == "norm"]
ROPES = [name for name in CASES if RULES[rule_of_case(name)] in ("rope", "latent_rope")]
POINTWISE = [name for name in CASES if RULES[rule_of_case(name)] == "pointwise"]
TINY = ["llama3_tiny", "qwen3_tiny"]


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="kernels"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _op(name: str) -> FusedOp:
    """The fused op of a case, built once."""
    return fused_ops(spec_of_case(name), "a", _folder())[rule_of_case(name)]


def test_every_rule_with_a_kernel_is_tested() -> None:
    assert {rule_of_case(name) for name in CASES} == set(RULES)


_FIRST = {rule_of_case(name): name for name in reversed(CASES)}


def _first(name: str) -> object:
    """By default each rule's first case, and a row that is read in pieces."""
    default = name in _FIRST.values() or name == "add_rms_norm/wide"
    return name if default else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", few(CASES, 26))
@interpreted
def test_float32(name: str) -> None:
    check_float32(_op(name))


@pytest.mark.parametrize("name", [_first(name) for name in CASES])
@interpreted
def test_bfloat16(name: str) -> None:
    check_bfloat16(_op(name))


@pytest.mark.parametrize("name", CASES)
@interpreted
def test_one_row_and_no_rows(name: str) -> None:
    op = _op(name)
    for batch, length in ((1, 1), (0, 3), (2, 0)):
        check_float32(op, inputs(op, torch.float32, batch, length))


@pytest.mark.parametrize("name", few(ROPES, 12))
@interpreted
def test_angles_of_each_sequence(name: str) -> None:
    op = _op(name)
    check_float32(op, inputs(op, torch.float32, batch=3, length=4, tables=3))


def _packed(x: Tensor) -> Tensor:
    """The same values as columns of wider rows."""
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 3), torch.nan, dtype=x.dtype)
    part = wide[..., 2 : 2 + x.shape[-1]]
    part.copy_(x)
    return part


def _transposed(x: Tensor) -> Tensor:
    """The same values with tokens before sequences."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def _spread(x: Tensor) -> Tensor:
    """The same values, every other column of wider rows."""
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan, dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def _expanded(x: Tensor) -> Tensor:
    """The first token, everywhere."""
    return x[:1, :1].expand(x.shape)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "packed": _packed,
    "transposed": _transposed,
    "spread": _spread,
    "expanded": _expanded,
}


def _laid_out(tensors: Tensors, layout: str, vectors: bool) -> Tensors:
    """Tensors whose rows lie otherwise in memory; with `vectors` the values of these lie apart, too."""
    least = 1 if vectors else 2
    return {
        name: t if t is None or t.dim() < least else _relaid(t, LAYOUTS[layout])
        for name, t in tensors.items()
    }


def _relaid(x: Tensor, layout: Callable[[Tensor], Tensor]) -> Tensor:
    return layout(x.detach()).detach().requires_grad_(x.requires_grad)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", few(FIRST, 16))
@interpreted
def test_operands_of_any_strides(name: str, layout: str) -> None:
    op = _op(name)
    vectors = layout == "spread" and RULES[name] in ("pointwise", "row")  # a norm's are weights
    check_float32(op, _laid_out(inputs(op, torch.float32, batch=2, length=3), layout, vectors))


@pytest.mark.parametrize("name", FIRST)
@interpreted
def test_gradients_that_come_in_expanded_or_not_at_all(name: str) -> None:
    """The gradient of one output's sum, as autograd hands it over: expanded, the others absent."""
    op = _op(name)
    tensors = inputs(op, torch.float32, batch=2, length=3)
    exact = {
        n: t if t is None else t.detach().double().requires_grad_(t.requires_grad) for n, t in tensors.items()
    }
    for place in range(len(op.outputs)):
        found, truth = (
            _gradients_of_sum(function(*given.values())[place], given)
            for function, given in ((op.fused, tensors), (op.exact, exact))
        )
        for mine, expected in zip(found, truth, strict=True):
            torch.testing.assert_close(mine.double(), expected, rtol=1e-4, atol=2e-5)


def _gradients_of_sum(output: Tensor, tensors: Tensors) -> tuple[Tensor, ...]:
    wanted = [t for t in tensors.values() if t is not None and t.requires_grad]
    return torch.autograd.grad(output.sum(), wanted, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("name", [name for name in NORMS if name.endswith("/none")])
@interpreted
def test_absent_addends_are_zeros(name: str) -> None:
    op = _op(name)
    optional = [operand.name for operand in op.operands if operand.optional]
    assert optional
    vectors = [operand.name for operand in op.operands if operand.optional and len(operand.shape) == 1]
    rows = [name for name in optional if name not in vectors]  # what norms them goes with them
    for absent in {(name, *vectors) for name in rows} | {tuple(optional)}:
        check_float32(op, inputs(op, torch.float32) | dict.fromkeys(absent))
        check_bfloat16(op, [inputs(op, torch.bfloat16) | dict.fromkeys(absent) for _ in range(DRAWS)])


_EXTREMES = (0.0, 1e-6, 0.1, 0.2, 0.3, 1.0, 5.0, 9.0, 20.0, 88.0, 89.0, 100.0, 1e4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name in POINTWISE if name in FIRST])
@interpreted
def test_large_values_stay_finite(name: str, dtype: torch.dtype) -> None:
    op = _op(name)
    tensors = inputs(op, dtype, batch=1, length=2 * len(_EXTREMES))
    for tensor in tensors.values():
        assert tensor is not None
        if tensor.dim() > 1:
            column = torch.tensor([*_EXTREMES, *(-x for x in _EXTREMES)], dtype=dtype)
            tensor.data.copy_(column[None, :, None].expand(tensor.shape))
    assert all(value.isfinite().all() for value in results(op, op.fused, tensors).values())
    if dtype == torch.float32:
        check_float32(op, tensors)


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e4])
@pytest.mark.parametrize("name", [name for name in NORMS if name in FIRST])
@interpreted
def test_norms_of_rows_of_any_size(name: str, size: float) -> None:
    """Rows of zeros too: eps keeps their norm finite."""
    op = _op(name)
    tensors = inputs(op, torch.float32)
    for tensor in tensors.values():
        if tensor is not None and tensor.dim() > 1:
            tensor.data.mul_(size)
    assert all(value.isfinite().all() for value in results(op, op.fused, tensors).values())
    check_float32(op, tensors)


@pytest.mark.parametrize("name", few(FIRST, 12))
@interpreted
def test_ops_are_registered_as_pytorch_wants_them(name: str) -> None:
    """Schema, fake tensors, autograd, and the same under AOT dispatch with symbolic shapes."""
    op = _op(name)
    check_op(getattr(op.kernels, f"_{op.name}"), tuple(inputs(op, torch.float32).values()))


# case, a text in its kernels, and another that computes something else
CONTROLS = [
    ("rms_norm", "+ 1e-06)", "+ 1e-03)"),
    ("rms_norm", "inside = column < 60", "inside = column < 59"),
    ("rms_norm", "row * x_stride", "row * 59"),
    ("rms_norm/offset", "(1.0 + weight)", "weight"),
    ("rms_norm", "dx = rstd * (dnormed - ", "dx = rstd * (dnormed + "),
    ("rms_norm", "dweight += dy * normed", "dweight += dy"),
    ("rms_norm", "dweight += dy * normed", "dweight = dy * normed"),
    ("add_rms_norm", "s += tl.load", "s = tl.load"),
    ("rms_norm", "along = rstd * ", "along = "),
    ("add_rms_norm", "along) + ds", "along) - ds"),
    ("add_add_rms_norm", "s += tl.load(z_ptr", "s -= tl.load(z_ptr"),
    ("rms_norm_add", "y += normed", "y -= normed"),
    ("rms_norm_add_rms_norm", "s += normed * (1.0 + inner)", "s += x * (1.0 + inner)"),
    ("rms_norm_add_rms_norm", "along) + ds", "along) - ds"),
    ("rms_norm_add_rms_norm", "dnormed = dresidual * (1.0 + inner)", "dnormed = dy * (1.0 + inner)"),
    ("rms_norm_add_rms_norm", "dinner += dresidual * normed", "dinner += dresidual"),
    (
        "rms_norm_add_rms_norm/none",
        "if x_ptr is not None:\n            x =",
        "if True:\n            x = s + 0 *",
    ),
    (
        "rms_norm_add_rms_norm/wide",
        "products += dnormed * x",
        "products = dnormed * x",
    ),
    ("layer_norm_add_layer_norm", "s += tl.load(inner_bias_ptr", "s -= tl.load(inner_bias_ptr"),
    ("layer_norm_add_layer_norm", "dinner_bias += dresidual", "dinner_bias += dy"),
    ("layer_norm_add_layer_norm/wide", "dx = rstd * (dnormed - level", "dx = rstd * (dnormed"),
    ("layer_norm", "tl.where(inside, x - tl.sum(x, 0) / 60, 0.0)", "x - tl.sum(x, 0) / 60"),
    ("layer_norm", "y += tl.load(bias_ptr", "y -= tl.load(bias_ptr"),
    ("layer_norm", "dnormed - tl.sum(dnormed, 0) / 60", "dnormed"),
    ("layer_norm", "dbias += dy", "dbias += normed"),
    ("add_layer_norm", "along) + ds", "along)"),
    ("layer_norm", "tl.sum(dnormed * centred, 0)", "tl.sum(dnormed * x, 0)"),
    ("add_add_layer_norm", "s += tl.load(x_ptr", "s -= tl.load(x_ptr"),
    ("layer_norm_add", "dnormed = dy * weight", "dnormed = dy"),
    ("rms_norm/wide", "inside = start + column < 9000", "inside = start + column < 8192"),
    ("add_rms_norm/wide", "products += dnormed * s", "products = dnormed * s"),
    ("add_rms_norm/wide", "dweight_3 += ", "dweight_2 += "),
    ("layer_norm/wide", "tl.sum(levels, 0)", "tl.sum(products, 0)"),
    ("add_layer_norm/wide", "first = tl.program_id(1) * 14336", "first = 0"),
    ("add_layer_norm/wide", "dbias_3 += bias_part", "dbias_3 += weight_part"),
    ("rope", "a * cos - b * sin", "a * cos + b * sin"),
    ("rope", "da * cos + db * sin", "da * cos - db * sin"),
    ("rope", "token % table_tokens", "0 * token"),
    ("rope/partial", "target + 6 + rest", "target + 5 + rest"),
    ("rope/interleaved", "tl.interleave(a * cos - b * sin, b", "tl.interleave(b * cos - a * sin, b"),
    ("rope_qkv", "source = qkv_ptr + token * qkv_stride + 72", "source = qkv_ptr + token * qkv_stride + 60"),
    ("rope_qkv", "dqkv_ptr + token * 84 + 72", "dqkv_ptr + token * 84 + 60"),
    ("rope_qkv", "db * cos - da * sin", "db * cos + da * sin"),
    ("rope_qkv", "head < 5", "head < 4"),
    ("row_norm_rope_qkv", "(tl.sum(a * a) + tl.sum(b * b)) / 60", "(tl.sum(a * a) + tl.sum(b * b)) / 12"),
    ("row_norm_rope_qkv", "(tl.sum(da * a) + tl.sum(db * b)) / 12", "(tl.sum(da * a) + tl.sum(db * b)) / 60"),
    ("row_norm_rope_qkv", "dk_weight_a += da * a", "dk_weight_a += da"),
    ("row_norm_rope_qkv", "q_norm_ptr + head * 12 + 6 + pair", "q_norm_ptr + head * 12 + pair"),
    ("qk_norm_rope", "(tl.sum(a * a, 1) + tl.sum(b * b, 1)) / 12", "tl.sum(a * a, 1) / 12"),
    ("qk_norm_rope", "da - a * mean", "da + a * mean"),
    ("qk_norm_rope", "dq_weight_a += da * a", "dq_weight_a += da"),
    ("qk_norm_rope/interleaved", "b *= 1.0 + tl.load", "b *= tl.load"),
    ("qk_norm_rope_qkv", "b * cos + a * sin", "b * cos - a * sin"),
    ("qk_norm_rope_qkv/partial", " + tl.sum(c * c, 1)", ""),
    ("qk_norm_rope_qkv/partial", "dq_weight_c += dc * c", "dq_weight_c += dc"),
    ("qk_norm_qkv", "dc - c * mean", "dc + c * mean"),
    ("rope_qk_norm", "da, db = rstd * (da - a * mean)", "da, db = rstd * (da + a * mean)"),
    ("rope_qk_norm_qkv", "da * cos + db * sin", "da * cos - db * sin"),
    ("rope_qk_norm_qkv/unweighted", "a, b = a * cos - b * sin", "a, b = a * cos + b * sin"),
    ("qk_norm_rope_qkv", "da = turned_a * cos + turned_b * sin", "da = turned_a * cos - turned_b * sin"),
    ("position_scale", "token % factors", "token * 0"),
    ("position_scale/blocks", "tl.program_id(1) * ", "tl.program_id(1) * 0 * "),
    ("swiglu", "inside = column < 33", "inside = column < 32"),
    ("swiglu/blocks", "tl.program_id(1) * 2048", "tl.program_id(1) * 0"),
    ("swiglu", "dgate_up_ptr + row * 66 + 33", "dgate_up_ptr + row * 66 + 32"),
    ("swiglu", "1.0 + g * (1.0 - sigmoid)", "1.0 - g * (1.0 - sigmoid)"),
    ("geglu_tanh", "0.044715", "0.044"),
    ("geglu_tanh", "0.134145", "0.13"),
    ("geglu", "tl.erf(g * 0.7071067811865476)", "tl.erf(g * 0.7)"),
    ("geglu", "+ g * exp", "- g * exp"),
    ("reglu", "tl.maximum(g, 0.0)", "tl.maximum(g, 0.1)"),
    ("reglu", "tl.where(g > 0", "tl.where(g < 0"),
    ("clamped_swiglu", "lane_inside = lane < 66", "lane_inside = lane < 65"),
    ("clamped_swiglu", "g, u = tl.split(", "u, g = tl.split("),
    ("clamped_swiglu", "tl.interleave(dg, du)", "tl.interleave(du, dg)"),
    ("clamped_swiglu", "gate = tl.minimum(g, 1.5)", "gate = g"),
    ("clamped_swiglu", "up = tl.maximum(minimum, -1.5)", "up = tl.maximum(minimum, -1.6)"),
    ("clamped_swiglu", "tl.where(1.5 - g > 0", "tl.where(1.4 - g > 0"),
    ("clamped_swiglu", "tl.where((-1.5) - minimum > 0", "tl.where(minimum > 9"),
    ("clamped_swiglu/blocks", "tl.program_id(1) * 4096", "tl.program_id(1) * 0"),
    ("scaled_turns", "gate_up_stride + lane", "gate_up_stride + 600 - lane"),
    ("bias_gelu_tanh", "t = x + bias", "t = x - bias"),
    ("bias_gelu", "exp = tl.exp((-0.5) *", "exp = tl.exp((-0.4) *"),
    ("bias_silu", "_rows(dx, 300).sum(0", "_rows(dx, 300).mean(0"),
    ("bias_relu", "inside = column < 1100", "inside = column < 1024"),
    ("relu_squared", "dy * 2.0 * relu", "dy * relu"),
    ("relu_squared", "y = relu * relu", "y = relu"),
]


@pytest.mark.parametrize(("name", "old", "new"), few(CONTROLS, 20))
@interpreted
def test_a_wrong_kernel_is_found(name: str, old: str, new: str) -> None:
    wrong = changed(_op(name), old, new)
    with pytest.raises(AssertionError, match="is off by"):
        check_float32(wrong)


def test_arithmetic_that_a_gradient_repeats_has_a_name() -> None:
    source = Path(str(_op("bias_gelu_tanh").kernels.__file__)).read_text()
    _, gradient = source.split("def _bias_gelu_tanh_backward_kernel")
    kernel, _ = gradient.split("tl.store", 1)
    assert "    t = x + bias\n" in kernel
    assert kernel.count("x + bias") == 1


def _models(model: str, folder: Path, settings: Mapping[str, str] | None = None) -> tuple[Any, Any]:
    """A tiny model and its reference with the same random weights, in float32."""
    package = build(SPECS / f"{model.removesuffix('_tiny')}.arch", model, folder, settings)
    reference = package.Reference()
    scramble(reference)
    checkpoint = folder / f"{package.__name__}.checkpoint"
    reference.save_pretrained(checkpoint)
    return package.Model.from_pretrained(checkpoint), reference


@pytest.mark.parametrize("model", [*TINY, "latent_tiny"])
@interpreted
def test_a_model_of_kernels_is_its_reference(model: str) -> None:
    """Logits, loss and the gradients of all tensors."""
    fused, reference = _models(model, _folder())
    assert sys.modules[type(fused).__module__].kernels._runs_triton(fused.norm)
    tokens = torch.randint(0, 160, (2, 7))
    assert distance(fused(tokens), reference(tokens)) < 1e-5
    gradients = []
    for each in (fused, reference):
        each.loss(tokens, tokens).backward()
        gradients.append(dict(stored_tensors(each, gradients=True)))
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[1].items():
        assert distance(gradients[0][name], gradient) < 1e-5, name


@pytest.mark.parametrize("model", few(TINY, 1))
def test_plain_models_are_compiled_and_exported(model: str, tmp_path: Path) -> None:
    """Where there is no GPU."""
    _check_tracing(model, tmp_path)


@pytest.mark.parametrize("model", few(TINY, 1))
@interpreted
def test_models_of_kernels_are_compiled_and_exported(model: str) -> None:
    _check_tracing(model, _folder())


def _check_tracing(model: str, folder: Path) -> None:
    """One graph without a break, forward and backward, and an export: each with the model's own values."""
    fused, _ = _models(model, folder)
    tokens = torch.randint(0, 160, (2, 7))
    expected = fused(tokens)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    logits = compiled(tokens)
    torch.testing.assert_close(logits, expected)
    gradients = [torch.autograd.grad(y.square().mean(), list(fused.parameters())) for y in (expected, logits)]
    torch.testing.assert_close(*gradients)
    exported = torch.export.export(fused, (tokens,)).module()
    torch.testing.assert_close(exported(tokens), expected)


@torch.no_grad()
def test_lengths_are_dynamic(tmp_path: Path) -> None:
    """One export and one compiled graph for prompts of any length."""
    fused, _ = _models("llama3_tiny", tmp_path, {"layers": "1"})
    tokens = torch.randint(0, 160, (2, 12))
    lengths = {"tokens": {1: torch.export.Dim("length", min=2, max=64)}}
    exported = torch.export.export(fused, (tokens,), dynamic_shapes=lengths).module()
    compiled = torch.compile(fused, fullgraph=True, dynamic=True, backend="eager")
    for length in (12, 7):
        expected = fused(tokens[:, :length])
        torch.testing.assert_close(exported(tokens[:, :length]), expected)
        torch.testing.assert_close(compiled(tokens[:, :length]), expected)
