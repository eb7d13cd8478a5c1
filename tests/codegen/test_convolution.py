"""Kernels of convolutions and shifts over tokens, with what follows, against their references in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.codegen.kernels.convolution.convolution_plan import ConvolutionKernel
from archc.codegen.kernels.table import KernelTable, fused_nodes
from archc.codegen.package import plan_package
from archc.ir.ops.convolution import CAUSAL_CONV
from archc.ir.rule import rule_of
from archc.verification.chips import CHIPS
from archc.verification.compiling import compile_launch
from archc.verification.launches import launches
from archc.verification.packages import import_package, stored_tensors
from tests.codegen.fused_ops import changed_module, distance
from tests.codegen.interpreter import interpreted
from tests.gpu import is_on
from tests.instruments.counted_step import counted_step
from tests.instruments.planned_step import layer_launches, planned_step
from tests.instruments.traffic import measure
from tests.support import build, compile_model, few, scramble

# What is made of x and of other rows, by what it shows: how many columns, and whether there are heads.
FORMS = {
    "bare": "CausalConv(x, 4) as conv",
    "biased": "CausalConv(x, 3, bias = true) as conv",
    "activated": "silu(CausalConv(x, 4, bias = true) as conv)",
    "gated": "y * CausalConv(x, 3) as conv",
    "normalised": "(CausalConv(x, 2) as conv) * sigmoid(y) / (1 + y * y)",
    "long": "CausalConv(x, 9, bias = true) as conv",
    "shifted": "shifted(x, 2)",
    "mixed": "x + (shifted(x) - x) * parameter([WIDTH]) as mu",
    "shares": "(parameter([WIDTH]) as mu) * x + (1 - parameter([WIDTH]) as nu) * shifted(x)",
    "heads": "merge_heads(silu(CausalConv(split_heads(x, 2), 4, bias = true) as conv))",
}
_SPEC = """
    import std
    arch A(d = WIDTH) {
      forward(tokens: [B, T]) {
        h = embedding(tokens, 9, d) as embed
        for i in 0..2 as layers {
          x, y = split(linear(rms_norm(h, 1e-5) as norm, 2 * d) as up, 2)
          h = h + linear(FORM, d) as down
        }
        return linear(h, 9) as head
      }
    }
    model a = A()
"""
EXACT, FLOAT32 = 1e-11, 3e-6
MAIN, *OTHERS = sorted(CHIPS, key=lambda name: name != "sm_90")


def _spec(form: str, width: int = 20) -> str:
    return _SPEC.replace("FORM", FORMS[form]).replace("WIDTH", str(width))


@dataclass(frozen=True)
class Op:
    """A package's fused op, its decomposition, and the module of what it is given."""

    plan: ConvolutionKernel
    kernels: ModuleType
    runtime: ModuleType
    reference: Callable[..., tuple[Tensor, ...]]
    names: tuple[str, ...]

    def run(self, tensors: dict[str, Tensor], span: Any) -> Tensor:
        x, *others = tensors.values()
        result: Tensor = getattr(self.kernels, self.plan.name)(x, span, *others)
        return result

    def exact(self, tensors: dict[str, Tensor], span: Any) -> Tensor:
        given = {"positions": span.positions, "key_positions": span.key_positions, **tensors}
        return self.reference(*(given.get(name) for name in self.names))[0]


@functools.cache
def _op(form: str, folder: Path, width: int = 20) -> Op:
    compilation = compile_model(_spec(form, width), "a")
    package = import_package(compilation, folder / f"{form}{width}")
    parts = list(compilation.fused.walk())
    table = KernelTable(parts)
    called = {table.name(*place): place[1] for place in fused_nodes(parts)}
    plans = plan_package(compilation.program, compilation.fused, compilation.reference).kernels
    (plan,) = (plan for plan in plans if isinstance(plan, ConvolutionKernel))
    kernels, runtime = package.kernels, package.runtime
    node = called[plan.name]
    rule = rule_of(node)
    assert rule is not None
    return Op(plan, kernels, runtime, node.op.reference, rule.operands)


def _tensors(op: Op, batch: int, tokens: int, keys: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random operands that require gradients; rows lie apart, as parts of wider ones do."""
    plan, found = op.plan, {}
    inner = (plan.width // plan.channels, plan.channels) if plan.dims > 3 else (plan.width,)
    shapes = {"weight": (plan.channels, 1, plan.taps), "x": (batch, keys, *inner)}
    for name in ("x", *plan.operands):
        rows = (batch, tokens, *inner) if name in plan.rows else (plan.channels,)
        wide = torch.randn(*shapes.get(name, rows), 2).to(dtype)
        found[name] = (wide[..., 0] if len(inner) > 1 else wide[..., 0].contiguous()).requires_grad_()
    return found


def _results(run: Callable[..., Tensor], tensors: dict[str, Tensor], span: Any) -> dict[str, Tensor]:
    y = run(tensors, span)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16).to(y.dtype)
    gradients = torch.autograd.grad(y, list(tensors.values()), dy)
    for name, gradient in zip(tensors, gradients, strict=True):
        assert (gradient.shape, gradient.dtype) == (tensors[name].shape, tensors[name].dtype), name
    return {"y": y.detach(), **dict(zip((f"d{name}" for name in tensors), gradients, strict=True))}


def _errors(op: Op, values: dict[str, Tensor], tensors: dict[str, Tensor], span: Any) -> dict[str, float]:
    wide = {name: tensor.detach().double().requires_grad_() for name, tensor in tensors.items()}
    return {
        name: distance(values[name], truth.detach()) for name, truth in _results(op.exact, wide, span).items()
    }


def _span(op: Op, tokens: int, padding: str, older: int = 0) -> Any:
    """Of the last tokens, `older` keys being before them; padding of one of two sequences, or of none."""
    keys = tokens + older
    if padding == "no":
        places = torch.arange(keys)[None]
        return op.runtime.Span(places[:, older:], places, False)
    marks = torch.ones(2, keys, dtype=torch.bool)
    hidden = {"left": slice(older, older + 2), "right": slice(-2, None), "amid": slice(older + 1, older + 3)}
    marks[0, hidden[padding]] = False
    span = op.runtime.spans(torch.zeros(2, keys, dtype=torch.int64), marks)
    return op.runtime.Span(span.positions[:, older:], span.key_positions, True)


# Of every form with tokens in order, alone and after others; of two wherever padding may be.
ORDERED = [("no", 7, 0), ("no", 4, 3)]
PLACES = [("left", 7, 0), ("right", 7, 0), ("amid", 7, 0), ("left", 5, 3), ("no", 1, 0)]
CASES = [
    *((form, *place) for form in FORMS for place in ORDERED),
    *((form, *place) for form in ("activated", "mixed") for place in PLACES),
]


def _check(op: Op, padding: str, tokens: int, older: int, dtype: torch.dtype, bound: float) -> None:
    span = _span(op, tokens, padding, older)
    tensors = _tensors(op, 2, tokens, tokens + older, dtype)
    for name, error in _errors(op, _results(op.run, tensors, span), tensors, span).items():
        assert error <= bound, f"{name} is off by {error:.1e}"


@pytest.mark.parametrize(("form", "padding", "tokens", "older"), CASES)
def test_plain_forms(form: str, padding: str, tokens: int, older: int, tmp_path: Path) -> None:
    _check(_op(form, tmp_path.parent), padding, tokens, older, torch.float64, EXACT)


@pytest.mark.parametrize(("form", "padding", "tokens", "older"), few(CASES, 14))
@interpreted
def test_kernels(form: str, padding: str, tokens: int, older: int, tmp_path: Path) -> None:
    _check(_op(form, tmp_path.parent), padding, tokens, older, torch.float32, FLOAT32)


@pytest.mark.parametrize("form", ["activated", "shares"])
@interpreted
def test_many_tokens(form: str, tmp_path: Path) -> None:
    """Over the edges of tiles, of columns, and of what one program sums."""
    _check(_op(form, tmp_path.parent, 136), "no", 300, 2, torch.float32, FLOAT32)


@pytest.mark.parametrize("form", ["biased", "activated", "gated", "mixed"])
@interpreted
def test_in_bfloat16(form: str, tmp_path: Path) -> None:
    """As near to float64 as the unfused form, in results and in gradients."""
    op = _op(form, tmp_path.parent)
    fused, plain = {}, {}
    for _ in range(4):
        span, tensors = _span(op, 9, "no"), _tensors(op, 2, 9, 9, torch.bfloat16)
        for errors, runs in ((fused, op.kernels._runs_triton), (plain, lambda _x: False)):
            kept, op.kernels._runs_triton = op.kernels._runs_triton, runs
            found = _errors(op, _results(op.run, tensors, span), tensors, span)
            op.kernels._runs_triton = kept
            errors.update({name: errors.get(name, 0.0) + error for name, error in found.items()})
    assert all(error <= 1.01 * plain[name] for name, error in fused.items()), (fused, plain)


@pytest.mark.parametrize(
    ("form", "old", "new"),
    [
        ("activated", "place = keys - tokens + token - n", "place = token - n"),
        ("activated", "(3 - n)", "n"),
        ("activated", "(place >= 0)", "(place >= -9)"),
        ("activated", "tap == 3 - n", "tap == n"),
        ("activated", "token = key - (keys - tokens) + n", "token = key + n"),
        ("activated", "& (token < tokens)", ""),
        ("mixed", "- (n + 1)", "- n"),
        ("mixed", "tl.where(here, dmu, 0.0)", "dmu * 2"),
    ],
)
@interpreted
def test_a_wrong_kernel_is_found(form: str, old: str, new: str, tmp_path: Path) -> None:
    op = _op(form, tmp_path.parent)
    changed = replace(op, kernels=changed_module(op.kernels, old, new))
    wrong = 0
    for place in ORDERED:
        try:
            _check(changed, *place, torch.float32, FLOAT32)
        except AssertionError:
            wrong += 1
    assert wrong


@pytest.mark.parametrize(
    ("form", "room", "padding"),
    [
        *((form, 12, padding) for form in ("activated", "mixed") for padding in ("no", "left", "right")),
        *((form, 10, "no") for form in ("gated", "shifted", "long", "heads")),
        *((form, 2, "no") for form in ("activated", "long")),
    ],
)
@interpreted
def test_steps(form: str, room: int, padding: str, tmp_path: Path) -> None:
    """A prompt, then token by token with fixed shapes; also in a cache of fewer tokens than are looked at."""
    package = build(_spec(form), "a", tmp_path)
    model, reference = package.Model(dtype=torch.float32), package.Reference(dtype=torch.float64)
    for each in (model, reference):
        scramble(each)
    prompt = min(5, room - 1)
    tokens = torch.randint(0, 9, (2, room))
    real = torch.ones(2, room, dtype=torch.bool)
    if padding != "no":
        real[0, {"left": slice(0, 2), "right": slice(prompt - 2, prompt)}[padding]] = False
    given = {"padding": real[:, :prompt]} if padding != "no" else {}
    truth = reference(tokens, **({"padding": real} if given else {}))
    cache = model.new_cache(2, room)
    with torch.no_grad():
        parts = [model(tokens[:, :prompt], cache=cache, **given)]
        cache.start_steps()
        parts += [model(tokens[:, n : n + 1], cache=cache) for n in range(prompt, room)]
    assert distance(torch.cat(parts, 1)[real], truth.detach()[real]) < 1e-5


@pytest.mark.parametrize("form", ["activated", "gated", "shifted", "mixed"])
def test_one_launch_a_layer(form: str, tmp_path: Path) -> None:
    """A step is as planned: two linear maps, the first with the norm and sum before it, and one kernel."""
    compilation = compile_model(_spec(form, 256), "a")
    (layer,) = (body for loop in compilation.fused.loops() for body in loop.bodies)
    assert layer_launches(layer) == 3
    plan = planned_step(compilation.fused, 1, 300)
    step = counted_step(import_package(compilation, tmp_path), 1, 300)
    assert step.count == plan.count
    assert step.bytes == pytest.approx(plan.bytes, rel=0.05)


@pytest.mark.parametrize("chip", [MAIN, *(pytest.param(chip, marks=pytest.mark.slow) for chip in OTHERS)])
@pytest.mark.parametrize("form", ["activated", "gated", "mixed"])
def test_compiled_ahead_of_time(form: str, chip: str, tmp_path: Path) -> None:
    """At a real width, forward, backward and in a step; nothing spills, and accesses are wide."""
    found = launches(compile_model(_spec(form, 2048), "a"), tmp_path, torch.bfloat16)
    own = [launch for launch in found if any(word in launch.name for word in ("conv", "shift"))]
    assert {launch.name.rpartition("_")[0].split("_")[-1] for launch in own} >= {
        "backward",
        "gradient",
        "step",
    }
    assert not [text for launch in own for text in compile_launch(launch, CHIPS[chip]).breaches()]


def test_long_convolutions_are_left_to_pytorch() -> None:
    graph = compile_model(_spec("bare").replace("(x, 4)", "(x, 33)"), "a").fused
    assert any(node.op is CAUSAL_CONV for part in graph.walk() for node in part.nodes())


def test_residual_sums_are_left_to_the_norm() -> None:
    """What a norm or the next layer reads is summed there, in one kernel."""
    spec = _spec("bare").replace(
        "h = h + linear(CausalConv(x, 4) as conv, d) as down", "h = h + CausalConv(x, 4) as conv"
    )
    names = {node.op.name for part in compile_model(spec, "a").fused.walk() for node in part.nodes()}
    assert {"causal_conv", "add_rms_norm"} <= names


@pytest.mark.skipif(is_on(), reason="Triton's interpreter is what counts bytes")
@pytest.mark.parametrize("form", ["gated", "shifted"])
@interpreted
def test_bytes_of_a_prompt(form: str, tmp_path: Path) -> None:
    """Every value is read once and written once, but for the tokens before those of a program."""
    op, tokens, taps = _op(form, tmp_path.parent, 64), 512, 3
    values = _tensors(op, 1, tokens, tokens, torch.bfloat16)
    run = getattr(op.kernels, f"_{op.plan.name}").launch
    rows = tokens * op.plan.width * torch.bfloat16.itemsize
    traffic = measure(lambda: run(*values.values(), tokens, None, None))
    moved = {name: entry.first for (_, name, _), entry in traffic.moved.items() if entry.size >= rows}
    assert sum(moved.values()) <= rows * (len(moved) + taps / op.plan.tokens)
    assert len(moved) == 2 + len(op.plan.rows)


_TWICE = """
    import std
    arch A(d = 12) {
      forward(tokens: [B, T]) {
        dx = embedding(tokens, 9, d) as embed
        token, place = linear(dx, d) as a, linear(dx, d) as g
        y = sigmoid(place) * (CausalConv(dx, 3) as c) * token
        return y + shifted(y, 2)
      }
    }
    model a = A()
"""


def test_one_reads_another_in_an_encoder(tmp_path: Path) -> None:
    """Without a cache, and with values that are called as a kernel calls its own."""
    package = build(_TWICE, "a", tmp_path)
    tokens, real = torch.randint(0, 9, (2, 7)), torch.ones(2, 7, dtype=torch.bool)
    real[0, :2] = real[1, 5:] = False
    results = []
    for kind in (package.Model, package.Reference):
        model = kind(dtype=torch.float64)
        scramble(model)
        results.append(model(tokens, padding=real).detach()[real])
    assert distance(*results) < EXACT


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("taps", [4, 5])
def test_a_convolution_of_both_sides_is_pytorchs(taps: int, tmp_path: Path) -> None:
    spec = """import std
    arch A(d = 12, taps) { forward(x: float[B, T, d]) { return Conv(x, taps, bias = true) as conv } }
    model m = A(taps = TAPS)"""
    model = build(spec.replace("TAPS", str(taps)), "m", tmp_path).Model(dtype=torch.float64)
    scramble(model)
    theirs = torch.nn.Conv1d(12, 12, taps, groups=12, padding="same", dtype=torch.float64)
    theirs.load_state_dict({name.removeprefix("conv."): x for name, x in stored_tensors(model)})
    x, real = torch.randn(2, 9, 12, dtype=torch.float64), torch.ones(2, 9, dtype=torch.bool)
    real[1, :3] = False
    y = model(x, padding=real)
    torch.testing.assert_close(y[0], theirs(x[0].T).T)
    torch.testing.assert_close(y[1, 3:], theirs(x[1, 3:].T).T)
