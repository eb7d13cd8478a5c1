"""Products of experts with activations after them, in the interpreter: values, gradients, and what joins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.ir.ops import experts
from archc.verification.packages import import_package
from tests.codegen.fused_ops import changed_module
from tests.codegen.interpreter import interpreted
from tests.gpu import is_on
from tests.support import build, compile_model, distance, scramble

FLOAT32 = 3e-6
BFLOAT16 = 1.01  # times the error of the unfused form: where both round once, ties fall either way
WIDTH = 24

# name -> the body of the experts, the fused op that it becomes, and how wide its results are
BODIES = {
    "gated": ("h = GatedMLP(x, 70, silu)", "dispatched_swiglu", 70),
    "plain with a bias": (
        "h = linear(relu(linear(x, 36, bias = true) as up), 24) as down",
        "dispatched_relu",
        36,
    ),
    "interleaved, clamped, with biases": (
        """gate, up = split_interleaved(linear(x, 72, bias = true) as gate_up, 2)
           gate, up = minimum(gate, 1.5), maximum(minimum(up, 1.5), -1.5)
           h = linear((up + 1) * gate * sigmoid(1.702 * gate), 24) as down""",
        "dispatched_clamped_swiglu",
        36,
    ),
    "weighted before, by tanh": ("h = GatedMLP(weights[e] * x, 20, gelu_tanh)", "dispatched_geglu_tanh", 20),
    "names that its kernel uses": (
        """inside, lane = split_interleaved(linear(x, 40) as gate_up, 2)
           h = linear(silu(inside) * lane, 24) as down""",
        "dispatched_activation",
        20,
    ),
    "a fusion and more": (
        """gate, up = split(linear(x, 40) as gate_up, 2)
           h = linear(0.5 * tanh(silu(gate) * up), 24) as down""",
        "dispatched_activation",
        20,
    ),
}

# batch, tokens, choices, experts
SIZES = {"odd": (2, 5, 2, 5), "one token": (1, 1, 1, 5), "many rows": (1, 70, 3, 5)}
bodies, sizes = pytest.mark.parametrize("body", BODIES), pytest.mark.parametrize("size", SIZES)


def _spec_of(body: str) -> str:
    weighted = "" if "weights[e]" in body else "weights[e] * "
    return f"""
        import std
        arch A() {{
          forward(x: float[B, T, {WIDTH}]) {{
            weights, chosen = top_k(softmax(linear(x, 5) as router), 2)
            y = experts e in chosen of 5 as experts {{
              {body}
              return {weighted}h
            }}
            return y
          }}
        }}
        model a = A()
    """


class Case:
    """The fused op of a body, and operands for it: some experts have no tokens, and odd numbers of them."""

    def __init__(self, body: str, size: str, folder: Path, dtype: torch.dtype = torch.float32):
        compilation = compile_model(_spec_of(BODIES[body][0]), "a")
        _, self.name, width = BODIES[body]
        (self.node,) = [node for node in compilation.fused.nodes() if node.op.name == self.name]
        package = import_package(compilation, folder)
        self.kernels = package.kernels
        batch, tokens, choices, count = SIZES[size]
        scores = torch.randn(batch, tokens, count)
        scores[..., 0] += 2
        scores[..., 3] -= 9
        chosen = scores.topk(choices, -1).indices
        self.order, self.places, self.ends = experts.sort_choices(chosen, count=count)
        given = dict(zip((o.name for o in self.node.op.operands), self.node.inputs, strict=True))
        outputs = int(compilation.fused.type(given["weight"]).shape[1])
        assert self.node.types[0].width == width
        shapes = {
            "x": (batch, tokens, WIDTH),
            "weight": (count, outputs, WIDTH),
            "offset": (count, outputs),
            "factors": tuple(chosen.shape),
        }
        self.leaves = {
            name: torch.randn(shape).to(dtype).requires_grad_()
            for name, shape in shapes.items()
            if given[name] is not None
        }

    def run(self, leaves: dict[str, Tensor], kernels: Any = None) -> Tensor:
        found: Tensor = getattr(kernels or self.kernels, self.name)(**self._operands(leaves))
        return found

    def meaning(self, leaves: dict[str, Tensor]) -> Tensor:
        """The decomposition."""
        operands = self._operands(leaves)
        given = [operands.get(operand.name) for operand in self.node.op.operands]
        (result,) = self.node.op.reference(*given, **self.node.attributes)
        return result  # type: ignore[no-any-return]

    def _operands(self, leaves: dict[str, Tensor]) -> dict[str, Tensor | None]:
        return {"offset": None, **leaves, "order": self.order, "places": self.places, "ends": self.ends}

    def distances(self, kernels: Any = None) -> list[float]:
        """Of the results, and of the gradients of all that is given, from those in float64."""
        wide = {name: t.detach().double().requires_grad_() for name, t in self.leaves.items()}
        value, truth = self.run(self.leaves, kernels), self.meaning(wide)
        incoming = torch.randn_like(truth)
        found = torch.autograd.grad(value, list(self.leaves.values()), incoming.to(value.dtype))
        exact = torch.autograd.grad(truth, list(wide.values()), incoming)
        pairs = zip((value, *found), (truth, *exact), strict=True)
        return [distance(each, expected) for each, expected in pairs]


@bodies
@sizes
@interpreted
def test_products_with_activations(body: str, size: str, tmp_path: Path) -> None:
    """Values and gradients; the same bits in every run, and whether or not a gradient is asked for."""
    case = Case(body, size, tmp_path)
    assert max(case.distances()) <= FLOAT32
    value = case.run(case.leaves)
    assert torch.equal(case.run(case.leaves), value)
    with torch.no_grad():
        alone = case.run(case.leaves)
    # In another tile: NumPy's products of the interpreter may add in another order there, a GPU's do not.
    assert torch.equal(alone, value) if is_on() else distance(alone, value) <= FLOAT32


@bodies
@interpreted
def test_bfloat16_is_no_less_accurate_than_the_unfused_form(body: str, tmp_path: Path) -> None:
    case = Case(body, "many rows", tmp_path, torch.bfloat16)
    with torch.no_grad():
        truth = case.meaning({name: t.double() for name, t in case.leaves.items()})
        unfused = distance(case.meaning(case.leaves), truth)
        assert distance(case.run(case.leaves), truth) <= BFLOAT16 * unfused


@interpreted
def test_one_graph_with_kernels(tmp_path: Path) -> None:
    """Compiled as a whole, with gradients, a model gives what it gives else."""
    model = build(_spec_of(BODIES["weighted before, by tanh"][0]), "a", tmp_path).Model(dtype=torch.float32)
    scramble(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x, leaves = torch.randn(2, 9, WIDTH), list(model.parameters())
    values = [run(x) for run in (model, compiled)]
    assert torch.equal(*values)
    for one, other in zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in values), strict=True):
        assert distance(other, one) <= FLOAT32


CONTROLS = [
    ("gated", "+ lane // 2", "+ lane // 4"),
    ("gated", "gate_up_ptr + 70 + kept, u", "gate_up_ptr + 70 + kept, g"),
    ("gated", "y = silu * u", "y = silu + u"),
    ("interleaved, clamped, with biases", "own * 72 + output", "output"),
    ("interleaved, clamped, with biases", "gate_up_ptr + kept, gate_up", "gate_up_ptr + kept, 0 * gate_up"),
    (
        "weighted before, by tanh",
        "gate_up *= tl.load(factors_ptr + choice",
        "gate_up *= tl.load(factors_ptr + row",
    ),
    ("plain with a bias", "h += offset", "h -= offset"),
]


@pytest.mark.parametrize(("body", "old", "new"), CONTROLS)
@interpreted
def test_a_wrong_kernel_is_found(body: str, old: str, new: str, tmp_path: Path) -> None:
    case = Case(body, "odd", tmp_path)
    assert not max(case.distances(changed_module(case.kernels, old, new))) <= FLOAT32


# name -> bodies whose products have more to do than an activation, and what is told of them
APART = {
    "read again": (
        "u = linear(x, 24) as up\n h = linear(silu(u), 24) as down + u",
        "more than an activation reads",
    ),
    "three parts": (
        """a, b, c = split(linear(x, 36) as up, 3)
           h = linear(silu(a) * b + c, 24) as down""",
        "pairs no columns",
    ),
    "columns alone and in pairs": (
        """u = linear(x, 36) as up
           a, b = split(u, 2)
           h = linear(concat(silu(a) * b, b), 24) as down""",
        "more than an activation reads",
    ),
}


@pytest.mark.parametrize("body", APART)
def test_what_is_no_activation_alone_stays_apart(body: str) -> None:
    compilation = compile_model(_spec_of(APART[body][0]), "a")
    names = {node.op.name for node in compilation.fused.nodes()}
    assert "dispatched_linear" in names
    assert not any(name.startswith("dispatched_") for name in names - {"dispatched_linear"})
    assert any(APART[body][1] in remark.text for remark in compilation.report.remarks)
