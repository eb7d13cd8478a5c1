"""Routers joined into one op, whatever their arithmetic, and its kernel in Triton's interpreter."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.ir.rule import rule_of
from archc.verification.packages import import_package
from tests.codegen.fused_ops import changed_module
from tests.codegen.interpreter import interpreted
from tests.gpu import is_on
from tests.instruments.traffic import measure
from tests.support import compile_model, distance, few

_SIGMOID = "scores = sigmoid(upcast(linear(x, EXPERTS) as gate))\n"
_BIASED = _SIGMOID + "choice = scores + parameter([EXPERTS]) as correction\n"
_CHOSEN = "weights = gather(scores, chosen)\nweights = weights / (sum(weights) + 1e-20) * 2.5\n"
ROUTERS = {
    "softmax, normed": """weights, chosen = top_k(softmax(upcast(linear(x, EXPERTS) as gate)), 3)
        weights = weights / sum(weights)""",
    "names that its kernel uses": """left, best = top_k(linear(x, EXPERTS) as gate, 3)
        n = softmax(left)
        weights, chosen = n * n, best""",
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
    "a factor for each expert": """scores = sigmoid(upcast(linear(x, EXPERTS) as gate))
        scores = scores * exp(parameter([EXPERTS]) as factor)
        weights, chosen = top_k(scores, 3)
        weights = weights / sum(weights)""",
    "a factor of each choice": """weights, chosen = top_k(softmax(linear(x, EXPERTS) as gate), 2)
        weights = weights * gather(exp(parameter([EXPERTS]) as factor), chosen)""",
    "shares of all": """scores = exp(upcast(linear(x, EXPERTS) as gate) / 8)
        weights, chosen = top_k(scores, 2)
        weights = weights / sum(scores)""",
    "a group that has too few": """scores = softmax(upcast(linear(x, EXPERTS) as gate))
        scores = group_mask(scores, 3, 1, score = largest, fill = zero)
        weights, chosen = top_k(scores, 3)""",
    "softmax by hand": """scores = upcast(linear(x, EXPERTS) as gate) / 4
        values, chosen = top_k(scores, 3)
        weights = exp(gather(scores, chosen)) / sum(exp(values))""",
    "a choice alone": """scores = linear(x, EXPERTS) as gate
        _, chosen = top_k(scores, 1)
        weights = sum(tanh(scores))""",
    "functions of the chosen": """scores, chosen = top_k(linear(x, EXPERTS) as gate, 2)
        weights = cast_like(softplus(clamp(tanh(upcast(scores)), -0.4, 0.6)), x)""",
    "none for one of them": """scores = softmax(upcast(linear(x, EXPERTS) as gate))
        _, places = top_k(scores, 2)
        weights = gather(scores, places) * step(EXPERTS - 1 - upcast(places))
        chosen = minimum(places, EXPERTS - 2)""",
    "roots, none for those that are small": """scores = sigmoid(linear(x, EXPERTS) as gate)
        values, places = top_k(scores, 3)
        weights = sqrt(values) * step(values - sum(values) / 4)
        chosen = unless_zero(places, weights)""",
    "one after the other": """scores = linear(x, EXPERTS) as gate
        first, a = top_k(scores, 1)
        second, b = top_k(scores - 8 * loads(a, scores) * absolute(scores), 2)
        weights, chosen = concat(tanh(first), softmax(second)), concat(a, b)""",
    "loads of several": """scores = linear(x, EXPERTS) as gate
        _, several = top_k(scores, 3)
        weights, chosen = top_k(sigmoid(scores - loads(several, scores)), 2)""",
    "one for all": "weights, chosen = top_k(softmax(linear(x, EXPERTS) as gate), 2)",
    "one for all, by a gate": _BIASED + "_, chosen = top_k(choice, 3)\n" + _CHOSEN,
    "all": """weights, chosen = top_k(sigmoid(linear(x, EXPERTS) as gate), EXPERTS)""",
}
BESIDE = {
    "one for all": " + linear(x, 12) as all",
    "one for all, by a gate": " + sigmoid(upcast(linear(x, 1) as by)) * linear(x, 12) as all",
}
ROWS = {
    "random": lambda count: torch.randn(2, 9, count),
    "negative": lambda count: -10 - torch.rand(1, 5, count),
    "equal": lambda count: torch.zeros(1, 2, count),
    "ties": lambda count: torch.randint(0, 3, (2, 7, count)).float(),
    "one above all": lambda count: torch.eye(count)[None] * 50,
}


def router_spec(router: str, count: int) -> str:
    body = ROUTERS[router].replace("EXPERTS", str(count))
    return f"""
        import std
        arch A() {{
          forward(x: float[B, T, 12]) {{
            {body}
            y = experts e in chosen of {count} as experts {{
              return weights[e] * linear(x, 12) as up
            }}
            return y{BESIDE.get(router, "")}
          }}
        }}
        model a = A()
    """


class Router:
    """The joined op of a model, and the module of its kernel."""

    def __init__(self, name: str, count: int = 6):
        compilation = compile_model(router_spec(name, count), "a")
        nodes = [(part, node) for part in compilation.fused.walk() for node in part.nodes() if rule_of(node)]
        ((graph, self.node),) = [(part, node) for part, node in nodes if node.op.name == "route"]
        self.shapes = [graph.type(value).shape for value in self.node.operands]
        self.kernels = import_package(compilation, Path(mkdtemp())).kernels

    def operands(self, scores: Tensor) -> list[Tensor]:
        """Scores in the place of the linear map's results; all else at random; x for its dtype."""
        return [
            (
                torch.randn(shape[0]).mul(0.3)  # type: ignore[arg-type]
                if len(shape) == 1
                else scores if shape[-1] == scores.shape[-1] else torch.randn(*scores.shape[:-1], shape[-1])
            )
            for shape in self.shapes
        ]

    def compare(self, scores: Tensor, kernels: Any = None) -> None:
        """The same choice, and weights but for float32's rounding."""
        operands = self.operands(scores)
        found = (kernels or self.kernels)._route(*operands)
        found = found if isinstance(found, tuple) else (found,)
        exact = self.node.op.reference(*(operand.double() for operand in operands))
        for value, truth in zip(found, exact, strict=True):
            if value.dtype == torch.int64:
                assert torch.equal(value, truth)
            else:
                assert distance(value, truth) < 1e-6

    def compare_gradients(self, scores: Tensor, kernels: Any = None) -> None:
        """Those of the weights, for what the kernel chose; what only chooses has none."""
        operands = [operand.requires_grad_() for operand in self.operands(scores)]
        wide = [operand.detach().double().requires_grad_() for operand in operands]
        found, exact = (kernels or self.kernels)._route(*operands), self.node.op.reference(*wide)
        found = found if isinstance(found, tuple) else (found,)
        weights, truths = ([o for o in outputs if o.is_floating_point()] for outputs in (found, exact))
        if not truths:
            assert not any(output.requires_grad for output in found)
            return
        incoming = [torch.randn_like(truth) for truth in truths]
        narrow = [gradient.to(value.dtype) for gradient, value in zip(incoming, weights, strict=True)]
        gradients = torch.autograd.grad(weights, operands, narrow, allow_unused=True)
        expected = torch.autograd.grad(truths, wide, incoming, allow_unused=True)
        for gradient, truth in zip(gradients, expected, strict=True):
            assert (gradient is None) == (truth is None)
            if gradient is not None and truth is not None:
                assert (gradient - truth).norm() <= 1e-6 * (truth.norm() + truths[0].norm())


_router = functools.cache(Router)


@pytest.mark.parametrize(
    "weights", ["scores * parameter([1, 6]) as row", "transpose(parameter([6, 1]) as column)"]
)
def test_a_router_reads_rows_of_tokens_and_vectors(weights: str) -> None:
    """A row [1, experts] was read as if each token had one, past its end."""
    text = f"""
        arch A() {{
          forward(x: float[B, T, 12]) {{
            scores = softmax(linear(x, 6) as gate)
            _, chosen = top_k(scores, 2)
            return gather({weights}, chosen), chosen
          }}
        }}
        model a = A()
    """
    graph = compile_model(text, "a").fused
    (node,) = (node for node in graph.nodes() if node.op.name == "route")
    shapes = [graph.type(value).shape for value in node.operands]
    assert all(len(shape) == 1 or shape[:2] == ("B", "T") for shape in shapes)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", few(ROUTERS, 8))
@interpreted
def test_the_choice_and_the_weights(name: str, rows: str) -> None:
    """And the gradient of the weights."""
    _router(name).compare(ROWS[rows](6))
    _router(name).compare_gradients(ROWS[rows](6))


@pytest.mark.parametrize(
    ("name", "count"), [("a bias for the choice", 512), ("the two largest of groups", 384)]
)
@interpreted
def test_many_experts(name: str, count: int) -> None:
    router = Router(name, count)
    router.compare(torch.randn(1, 3, count))
    router.compare_gradients(torch.randn(1, 3, count))


@interpreted
def test_whole_numbers_stay_whole() -> None:
    """Those that a choice looks up, as places among many rows are."""
    spec = """
        arch A() {
          forward(x: float[B, T, 4], rows: [B, T, 4]) {
            scores, best = top_k(linear(x, 4) as gate, 2)
            return weights = softmax(scores), chosen = gather(rows, best)
          }
        }
        model a = A()
    """
    package = import_package(compile_model(spec, "a"), Path(mkdtemp()))
    rows = 2**40 + torch.arange(24).view(2, 3, 4)
    x, model = torch.randn(2, 3, 4), package.Model(dtype=torch.float32)
    kernels = package.kernels
    scores = x @ model.gate.T
    _, chosen = kernels._route(scores, rows)
    assert torch.equal(chosen, rows.gather(-1, scores.topk(2, -1).indices))


@interpreted
def test_places_are_multiplied_as_whole_numbers() -> None:
    """As those of pairs are, of which product keys (Lample et al. 2019) choose some."""
    spec = """
        arch A() {
          forward(x: float[B, T, 8]) {
            scores, best = top_k(linear(x, 900) as gate, 2)
            return weights = softmax(scores), places = 100_003 * best + 1
          }
        }
        model a = A()
    """
    package = import_package(compile_model(spec, "a"), Path(mkdtemp()))
    x, model = torch.randn(2, 3, 8), package.Model(dtype=torch.float32)
    assert torch.equal(model(x)[1], 100_003 * (x @ model.gate.T).topk(2, -1).indices + 1)


@interpreted
def test_a_gradient_is_the_same_to_the_bit() -> None:
    router = _router("a factor for each expert")
    operands = [operand.requires_grad_() for operand in router.operands(torch.randn(2, 40, 6))]
    incoming = torch.randn(2, 40, 3)
    first, second = (
        torch.autograd.grad(
            [o for o in router.kernels._route(*operands) if o.is_floating_point()],
            operands,
            [incoming],
            allow_unused=True,
        )
        for _ in range(2)
    )
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.skipif(is_on(), reason="Triton's interpreter is what counts what kernels write")
@interpreted
def test_what_was_chosen_has_no_gradient() -> None:
    """Not even one of zeros."""
    router = _router("softmax, normed")
    operands = [operand.requires_grad_() for operand in router.operands(torch.randn(2, 5, 6))]
    weights = next(o for o in router.kernels._route(*operands) if o.is_floating_point())
    gradient = torch.randn_like(weights)
    moved = measure(lambda: torch.autograd.grad(weights, operands[0], gradient)).moved
    assert ("_route_backward_kernel", "dscores_ptr", "store") in moved
    assert not [place for place, _, _ in moved if "zeros" in place]


@pytest.mark.parametrize("name", ROUTERS)
def test_nothing_of_a_router_stays_outside(name: str) -> None:
    fused = compile_model(router_spec(name, 6), "a").fused
    assert {"softmax", "sigmoid", "top_k", "group_mask", "gather", "div"}.isdisjoint(
        node.op.name for node in fused.nodes()
    )


def test_what_is_read_elsewhere_stays_outside() -> None:
    """Scores that a loss reads are computed once, before the choice."""
    text = router_spec("softmax, normed", 6).replace("y = experts", "probs = softmax(x)\ny = experts")
    text = text.replace("return y\n", "return y * mean(weights)\n")
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
        ("softmax, scaled", " - mean)", ")"),
        ("softmax of the chosen", ".to(tl.int32)\n", ".to(tl.int32) * 0\n"),
        ("a factor for each expert", "_rows.sum(0)", "_rows.mean(0)"),
        ("a group that has too few", "tl.where(seen, dscores, 0.0)", "dscores"),
        ("one for all", "lane_4 + ", "lane_4 - "),
        ("one after the other", "(lane_2 + 1)[:, None] ==", "lane_2[:, None] =="),
    ],
)
@interpreted
def test_a_wrong_kernel_is_found(name: str, old: str, new: str) -> None:
    router = _router(name)
    changed = changed_module(router.kernels, old, new)
    wrong = 0
    for make in ROWS.values():
        try:
            router.compare(make(6), changed)
            router.compare_gradients(make(6), changed)
        except AssertionError:
            wrong += 1
    assert wrong
