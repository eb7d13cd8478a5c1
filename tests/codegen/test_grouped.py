"""The kernels of experts in Triton's interpreter: choices, sorted and grouped, products, sums, gradients."""

from __future__ import annotations

import functools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.ir.ops import experts
from tests.codegen.expert_bodies import BODIES, spec_of
from tests.codegen.fused_ops import changed_module
from tests.codegen.interpreter import interpreted
from tests.support import build, distance, few, scramble

FLOAT32 = 3e-6
BFLOAT16 = 1.01  # times the error of the unfused form: where both round once, ties fall either way

# batch, tokens, choices, experts, width, outputs
SIZES = {
    "odd": (2, 5, 2, 5, 20, 36),
    "one token": (1, 1, 1, 3, 8, 8),
    "many rows": (1, 70, 3, 4, 40, 70),
    "many experts": (2, 5, 4, 40, 20, 12),
    "all experts": (1, 7, 6, 6, 16, 12),
    "long rows": (1, 3, 2, 4, 8, 2050),
}


# Experts with all that their functions may be given: factors of tokens, sums that are narrow, with weights or
# without them, beside something else.
ALL = """scaled = experts e in chosen of 5 as scaled {
             return linear(weights[e] * x, 12) as up
           }
           wide = upcast(weights)
           narrowed = cast_like(experts e in chosen of 5 as narrowed {
             return wide[e] * linear(x, 12, bias = true) as up
           }, x)
           weighed = experts e in chosen of 5 as weighed {
             return weights[e] * linear(x, 12) as up
           }
           y = narrowed + (weighed + (scaled + x))"""


@functools.cache
def _kernels(folder: Path) -> Any:
    return build(spec_of(ALL), "a", folder).kernels


class Case:
    """Tokens x that have chosen experts, weights of the choices and of the experts, all in float64."""

    def __init__(self, size: str, dtype: torch.dtype = torch.float32):
        batch, tokens, choices, self.count, width, outputs = SIZES[size]
        scores = torch.randn(batch, tokens, self.count)
        scores[..., 0] += 2  # most come to one, some experts get none
        self.chosen = scores.topk(choices, -1).indices
        self.order, self.places, self.ends = experts.sort_choices(self.chosen, count=self.count)
        self.x = self._random(batch, tokens, width, dtype=dtype)
        self.weight = self._random(self.count, outputs, width, dtype=dtype)
        self.offset = self._random(self.count, outputs, dtype=dtype)
        self.y = self._random(self.chosen.numel(), outputs, dtype=dtype)
        self.weights = self._random(*self.chosen.shape, dtype=dtype)
        self.factors = self._random(*self.chosen.shape, dtype=dtype)
        self.beside = self._random(batch, tokens, outputs, dtype=dtype)

    def _random(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(shape).to(dtype).requires_grad_()


sizes = pytest.mark.parametrize("size", SIZES)


@sizes
@interpreted
def test_choices_are_sorted_as_pytorch_does(size: str, tmp_path: Path) -> None:
    case = Case(size)
    found = _kernels(tmp_path).sort_choices(case.chosen, case.count)
    assert all(map(torch.equal, found, (case.order, case.places, case.ends)))


# tokens, choices of each, experts: 300 choices fill a block in part, 4,096 in full, more take several
CHOICES = [(150, 2, 7), (150, 2, 130), (1024, 4, 5), (1366, 3, 6), (66_000, 1, 2)]


@pytest.mark.parametrize(("tokens", "choices", "count"), CHOICES)
@interpreted
def test_choices_beyond_one_block_are_sorted(tokens: int, choices: int, count: int, tmp_path: Path) -> None:
    chosen = torch.randint(0, count, (2, tokens // 2, choices)) % (count - 1)  # the last expert has none
    found = _kernels(tmp_path).sort_choices(chosen, count)
    assert all(map(torch.equal, found, experts.sort_choices(chosen, count=count)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(other < block)", "(other < block - 1)"),
        ("first = tl.sum(counts, 0)", "first = tl.sum(counts, 0) * 0"),
        ("(chosen < expert).to(tl.int32), 0))", "(chosen < expert).to(tl.int32), 0) // 2)"),
    ],
)
@interpreted
def test_a_wrong_order_of_many_choices_is_found(old: str, new: str, tmp_path: Path) -> None:
    kernels = changed_module(_kernels(tmp_path), old, new)
    chosen = torch.randint(0, 3, (1, 4200, 1))
    expected = experts.sort_choices(chosen, count=3)
    assert not all(map(torch.equal, kernels.sort_choices(chosen, 3), expected))


@sizes
@interpreted
def test_sums_of_experts_rows(size: str, tmp_path: Path) -> None:
    case = Case(size)
    rows = case.y.detach().double().split(case.ends.diff(prepend=torch.zeros(1, dtype=torch.int64)).tolist())
    exact = torch.stack([each.sum(0) for each in rows])
    assert distance(_kernels(tmp_path).grouped_sum(case.y.detach(), case.ends), exact) <= FLOAT32


def _compare(function: Any, reference: Any, tensors: list[Tensor], bound: float = FLOAT32) -> None:
    """Values and gradients of a kernel against its op's meaning in float64."""
    wide = [t.detach().double().requires_grad_() for t in tensors]
    value, truth = function(*tensors), reference(*wide)
    incoming = torch.randn_like(truth)
    gradients = torch.autograd.grad(value, tensors, incoming.to(value.dtype))
    truths = torch.autograd.grad(truth, wide, incoming)
    for found, exact in zip((value, *gradients), (truth, *truths), strict=True):
        assert found.shape == exact.shape
        assert distance(found, exact) <= bound


FURTHER = [(), ("offset",), ("factors",), ("offset", "factors")]
# Long rows are more of the same tiles to a product: once, with all that there is.
LINEARS = [(size, more) for more in FURTHER for size in SIZES if size != "long rows" or more == FURTHER[-1]]


@pytest.mark.parametrize(("size", "further"), few(LINEARS, 10))
@interpreted
def test_linears_of_dispatched_tokens(size: str, further: tuple[str, ...], tmp_path: Path) -> None:
    case, kernels = Case(size), _kernels(tmp_path)
    tensors = [case.x, case.weight, *(getattr(case, name) for name in further)]
    _compare(
        partial(_dispatched, kernels.dispatched_linear, case, further),
        partial(_dispatched, experts.dispatched_linear, case, further),
        tensors,
    )


def _dispatched(
    function: Any, case: Case, further: tuple[str, ...], x: Tensor, weight: Tensor, *others: Tensor
) -> Tensor:
    named = dict(zip(further, others, strict=True))
    optional = named.get("offset"), named.get("factors")
    found: Tensor = function(x, case.order, case.places, weight, case.ends, *optional)
    return found


@sizes
@interpreted
def test_sums_of_choices(size: str, tmp_path: Path) -> None:
    """Alone, and with something beside them."""
    case, kernels = Case(size), _kernels(tmp_path)
    for more in ([], [case.beside]):
        _compare(
            lambda y, beside=None: kernels.combine(y, case.places, beside),
            lambda y, beside=None: experts.combine(y, case.places, beside),
            [case.y, *more],
        )
        _compare(
            partial(_by_kernel, kernels, case),
            partial(_by_op, case),
            [case.y, case.weights, *more],
        )


def _by_kernel(
    kernels: Any, case: Case, y: Tensor, weights: Tensor, beside: Tensor | None = None, narrow: bool = False
) -> Tensor:
    found: Tensor = kernels.weighted_combine(y, weights, case.places, beside, narrow)
    return found


def _by_op(
    case: Case, y: Tensor, weights: Tensor, beside: Tensor | None = None, narrow: bool = False
) -> Tensor:
    found: Tensor = experts.weighted_combine(y, weights, case.places, beside, narrow=narrow)
    return found


@interpreted
def test_bfloat16_is_no_less_accurate_than_the_unfused_form(tmp_path: Path) -> None:
    case, kernels = Case("many rows", torch.bfloat16), _kernels(tmp_path)
    with torch.no_grad():
        linears = [partial(_dispatched, op.dispatched_linear, case, ()) for op in (kernels, experts)]
        sums = [partial(_by_kernel, kernels, case), partial(_by_op, case)]
        narrow = [partial(each, narrow=True) for each in sums]
        pairs = [
            (linears, (case.x, case.weight)),
            (sums, (case.y, case.weights)),
            (sums, (case.y, case.weights, case.beside)),
            (narrow, (case.y, case.weights.float())),
        ]
        for (kernel, op), operands in pairs:
            found, exact = kernel(*operands), op(*(t.double() for t in operands))
            assert distance(found, exact) <= BFLOAT16 * distance(op(*operands), exact)


@pytest.mark.parametrize("body", few(BODIES, 7))
@interpreted
def test_models_with_kernels_are_their_reference(body: str, tmp_path: Path) -> None:
    """Any body, forward and backward; twice, and the same to the bit."""
    package = build(spec_of(BODIES[body][0]), "a", tmp_path)
    model = package.Model(dtype=torch.float32)
    scramble(model)
    model.save_pretrained(tmp_path / "weights")
    exact = package.Reference.from_pretrained(tmp_path / "weights", dtype=torch.float64)
    x = torch.randn(2, 9, 12)
    value, truth = model(x), exact(x.double())
    assert distance(value, truth) < 1e-5
    assert torch.equal(model(x), value)
    value.square().sum().backward()
    wide = package.Model.from_pretrained(tmp_path / "weights", dtype=torch.float64)
    wide(x.double()).square().sum().backward()
    for found, expected in zip(model.parameters(), wide.parameters(), strict=True):
        if expected.grad is None:  # whole numbers are read of it
            assert found.grad is None
        else:
            assert distance(found.grad, expected.grad) < 1e-4


CONTROLS = [
    ("tl.cumsum(mine.to(tl.int32), 0) - 1", "tl.cumsum(mine.to(tl.int32), 0) * 0"),
    ("first = tl.sum((chosen < expert)", "first = tl.sum((chosen + 1 < expert)"),
    ("(first + tl.sum(mine", "(tl.sum(mine"),
    ("// CHOICES\n", "// CHOICES * 0\n"),
    ("(tile - before) * ROWS", "0 * ROWS"),
    ("for first in range(0, width, STEP):", "for first in range(0, width - STEP, STEP):"),
    ("y *= tl.load(weights_ptr", "y += tl.load(weights_ptr"),
    ("order, places.shape[-1], factors)", "order, 1, factors)"),
    ("y *= tl.load(factors_ptr + choice", "y *= tl.load(factors_ptr + row"),
    ("dy.to(tl.float32) * factors[:, None]", "dy.to(tl.float32) * factors[:, None] * 0"),
    ("dweight += dsums * tl.load", "dweight = dsums * tl.load"),
    ("for first in range(start, end, STEP):", "for first in range(start + 1, end, STEP):"),
]


@pytest.mark.parametrize(("old", "new"), few(CONTROLS, 3))
@interpreted
def test_a_wrong_kernel_is_found(old: str, new: str, tmp_path: Path) -> None:
    kernels = changed_module(_kernels(tmp_path), old, new)
    assert any(_is_wrong(kernels, Case(size)) for size in ("odd", "many rows", "long rows"))


def _is_wrong(kernels: Any, case: Case) -> bool:
    """Whether anything that experts need comes out wrong."""
    found = kernels.sort_choices(case.chosen, case.count)
    if not all(map(torch.equal, found, (case.order, case.places, case.ends))):
        return True
    linears = [partial(_dispatched, op.dispatched_linear, case, ("factors",)) for op in (kernels, experts)]
    sums = [partial(_by_kernel, kernels, case), partial(_by_op, case)]
    try:
        _compare(*linears, [case.x, case.weight, case.factors])
        _compare(*sums, [case.y, case.weights])
    except (AssertionError, IndexError):
        return True
    return False
