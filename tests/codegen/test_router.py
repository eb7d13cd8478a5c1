"""Routers joined into one op, whatever their arithmetic, and its kernel in Triton's interpreter."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.ir.graph import Node
from archc.ir.rule import rule_of
from archc.verification.packages import import_package
from tests.codegen.fused_ops import changed_module
from tests.codegen.interpreter import interpreted
from tests.support import compile_model, distance

_SIGMOID = "scores = sigmoid(upcast(linear(x, EXPERTS) as gate))\n"
_BIASED = _SIGMOID + "choice = scores + parameter([EXPERTS]) as correction\n"
_CHOSEN = "weights = gather(scores, chosen)\nweights = weights / (sum(weights) + 1e-20) * 2.5\n"
ROUTERS = {
    "softmax, normed": """weights, chosen = top_k(softmax(upcast(linear(x, EXPERTS) as gate)), 3)
        weights = weights / sum(weights)""",
    "softmax, scaled": """weights, chosen = top_k(softmax(linear(x, EXPERTS) as gate), 2)
        weights = weights * 16""",
    "softmax of the chosen": """scores, chosen = top_k(linear(x, EXPERTS, bias = true) as gate, 4)
        weights = softmax(scores)""",
    "sigmoid of the chosen": """scores, chosen = top_k(linear(x, EXPERTS) as gate, 1)
        weights = cast_like(sigmoid(upcast(scores)), x)""",
    "a bias for the choice": _BIASED + "_, chosen = top_k(choice, 3)\n" + _CHOSEN,
    "the largest of groups": """scores = softmax(upcast(linear(x, EXPERTS) as gate))
        scores = group_mask(scores, 3, 2, score = largest, fill = zero)
        weights, chosen = top_k(scores, 3)""",
    "the two largest of groups": _BIASED
    + "choice = group_mask(choice, 3, 1, score = sum_top_two, fill = minus_infinity)\n"
    + "_, chosen = top_k(choice, 3)\n"
    + _CHOSEN,
    "all": """weights, chosen = top_k(sigmoid(linear(x, EXPERTS) as gate), EXPERTS)""",
}
ROWS = {
    "random": lambda count: torch.randn(2, 9, count),
    "negative": lambda count: -10 - torch.rand(1, 5, count),
    "equal": lambda count: torch.zeros(1, 2, count),
    "ties": lambda count: torch.randint(0, 3, (2, 7, count)).float(),
    "one above all": lambda count: torch.eye(count)[None] * 50,
}


def _spec(router: str, count: int) -> str:
    body = ROUTERS[router].replace("EXPERTS", str(count))
    return f"""
        import std
        arch A() {{
          forward(x: float[B, T, 12]) {{
            {body}
            return experts e in chosen of {count} as experts {{
              return weights[e] * linear(x, 12) as up
            }}
          }}
        }}
        model a = A()
    """


class Router:
    """The joined op of a model, and the module of its kernel."""

    def __init__(self, name: str, folder: Path, count: int = 6):
        compilation = compile_model(_spec(name, count), "a")
        nodes = [(part, node) for part in compilation.fused.walk() for node in part.nodes() if rule_of(node)]
        ((graph, self.node),) = [(part, node) for part, node in nodes if node.op.name == "route"]
        self.shapes = [graph.type(value).shape for value in self.node.inputs if value is not None]
        self.kernels = importlib.import_module(f"{import_package(compilation, folder).__name__}.kernels")

    def operands(self, scores: Tensor) -> list[Tensor]:
        """Scores in the place of the linear map's results; vectors at random; x for its dtype."""
        return [
            (
                torch.randn(shape[0]).mul(0.3)  # type: ignore[arg-type]
                if len(shape) == 1
                else scores if shape[-1] == scores.shape[-1] else scores.new_zeros(*scores.shape[:-1], 12)
            )
            for shape in self.shapes
        ]

    def compare(self, scores: Tensor, kernels: Any = None) -> None:
        """The same choice, and weights but for float32's rounding."""
        operands = self.operands(scores)
        found = (kernels or self.kernels)._route(*operands)
        exact = self.node.op.reference(*(operand.double() for operand in operands))
        for value, truth in zip(found, exact, strict=True):
            if value.dtype == torch.int64:
                assert torch.equal(value, truth)
            else:
                assert distance(value, truth) < 1e-6


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", ROUTERS)
@interpreted
def test_the_choice_and_the_weights(name: str, rows: str, tmp_path: Path) -> None:
    Router(name, tmp_path).compare(ROWS[rows](6))


@pytest.mark.parametrize("name", ["a bias for the choice", "the two largest of groups"])
@interpreted
def test_many_experts(name: str, tmp_path: Path) -> None:
    Router(name, tmp_path, 384).compare(torch.randn(1, 3, 384))


@pytest.mark.parametrize("name", ROUTERS)
def test_nothing_of_a_router_stays_outside(name: str) -> None:
    fused = compile_model(_spec(name, 6), "a").fused
    assert {"softmax", "sigmoid", "top_k", "group_mask", "gather", "div"}.isdisjoint(
        node.op.name for node in fused.nodes()
    )


def test_what_is_read_elsewhere_stays_outside() -> None:
    """Scores that a loss reads are computed once, before the choice."""
    text = _spec("softmax, normed", 6).replace("return experts", "probs = softmax(x)\ny = experts")
    text = text.replace("as up\n            }", "as up\n            }\n            return y * mean(weights)")
    fused = compile_model(text, "a").fused
    assert [node.op.name for node in fused.nodes() if rule_of(node)] == ["route"]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("softmax, normed", "left = left & (lane != place)", "left = left"),
        ("all", "tl.min(tl.where(left &", "tl.max(tl.where(left &"),
        ("the two largest of groups", "judged += tl.max", "judged = tl.max"),
        ("the two largest of groups", "< 1\n", "< 2\n"),
        ("a bias for the choice", "== lane[None, :]", "!= lane[None, :]"),
    ],
)
@interpreted
def test_a_wrong_kernel_is_found(name: str, old: str, new: str, tmp_path: Path) -> None:
    router = Router(name, tmp_path)
    changed = changed_module(router.kernels, old, new)
    wrong = 0
    for make in ROWS.values():
        try:
            router.compare(make(6), changed)
        except AssertionError:
            wrong += 1
    assert wrong


def _node_names(node: Node) -> list[str]:
    return [step.op.name for step in rule_of(node).steps]  # type: ignore[union-attr]


def test_a_gradient_is_pytorchs_own(tmp_path: Path) -> None:
    """The kernel is left out where one is asked for."""
    router = Router("a bias for the choice", tmp_path)
    scores = torch.randn(1, 4, 6, dtype=torch.float64, requires_grad=True)
    operands = router.operands(scores)
    weights = next(each for each in router.kernels.route(*operands) if each.is_floating_point())
    (gradient,) = torch.autograd.grad(weights.sum(), scores)
    assert gradient.abs().sum() > 0
    assert "top_k" in _node_names(router.node)
