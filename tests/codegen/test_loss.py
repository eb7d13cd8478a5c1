"""The loss over a language model's head: its value, its gradients, and that it never holds all logits."""

from __future__ import annotations

import copy
import functools
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from archc import compiler
from archc.codegen.kernels.linear import loss_kernel
from archc.verification.packages import stored_tensors
from tests.codegen import hazards
from tests.codegen.interpreter import interpreted
from tests.codegen.registered import check_op
from tests.support import build, distance, few, scramble

VOCABULARY, ROWS = 50, 3

# What the model returns of h: each head is cut off in another way, the last one not at all.
HEADS = {
    "plain": "return linear(h, 50) as head",
    "tied": "return linear(h, 50, tied_to = wte) as head",
    "bias": "return linear(h, 50, bias = true) as head",
    "scaled": "return 0.25 * linear(h, 50) as head",
    "capped": "return 3 * tanh(linear(h, 50, bias = true) as head / 3)",
    "wide": "return upcast(linear(h, 50) as head)",
    "read twice": "y = linear(h, 50) as head\nreturn y + square(y)",
    "by a weight": "return linear(h, 50) as head * parameter(shape = [50]) as scale",
}
CUT = [name for name in HEADS if name != "by a weight"]


def _spec(head: str) -> str:
    return f"""
    arch A(d = 12) {{
      forward(tokens: [B, T]) {{
        x = embedding(tokens, 50, d) as wte
        h = rms_norm(x + linear(silu(linear(x, 20) as up), d) as down, 1e-6) as norm
        {HEADS[head]}
      }}
    }}
    model a = A()
    """


@contextmanager
def _small_chunks() -> Iterator[None]:
    """Chunks of a few rows and blocks of a few columns, as if the vocabulary were large."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("_CHUNK", ROWS * VOCABULARY),
            ("_ROW_STEP", 1),
            ("_LEAST_ROWS", ROWS),
            ("_MAX_BLOCK", 16),
            ("_WIDE", 1),
        ):
            patch.setattr(loss_kernel, name, value)
        yield


def _build(head: str, folder: Path) -> ModuleType:
    with _small_chunks():
        return build(_spec(head), "a", folder)


@functools.cache
def _package(head: str) -> ModuleType:
    return _build(head, Path(mkdtemp()))


def _pair(head: str, folder: Path, dtype: torch.dtype, package: ModuleType | None = None) -> tuple[Any, Any]:
    """A model and its reference with the same random weights."""
    package = package or _package(head)
    reference = package.Reference()
    scramble(reference)
    reference.save_pretrained(folder / "checkpoint")
    return package.Model.from_pretrained(folder / "checkpoint", dtype=dtype), reference.to(dtype)


def _batch() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels of which some do not count, weights."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (2, 9), generator=generator)
    labels = torch.randint(0, VOCABULARY, (2, 9), generator=generator)
    labels[0, 2:4] = labels[1, 8] = -100
    return tokens, labels, torch.rand(2, 9, generator=generator)


def _gradients(model: Any, value: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    value.backward()
    return {name: tensor.clone() for name, tensor in stored_tensors(model, gradients=True)}


def _compare(model: Any, reference: Any, tolerance: float) -> None:
    """Losses of every kind, log-probabilities, and the gradients of both."""
    tokens, labels, weights = _batch()
    factors = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    kinds: dict[str, Any] = {
        "plain": lambda m: m.loss(tokens, labels),
        "weighted": lambda m: m.loss(tokens, labels, weights=weights),
        "z": lambda m: 2 * m.loss(tokens, labels, weights=weights, z_loss=0.1),
        "log_probs": lambda m: (m.log_probs(tokens) * factors.to(m.log_probs(tokens).dtype)).sum(),
    }
    for kind, run in kinds.items():
        value, truth = run(model), run(reference)
        assert distance(value, truth) < tolerance, kind
        found, expected = _gradients(model, value), _gradients(reference, truth)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert distance(found[name], gradient) < tolerance, (kind, name)


@pytest.mark.parametrize("head", HEADS)
def test_losses_and_gradients_are_the_references(head: str, tmp_path: Path) -> None:
    model, reference = _pair(head, tmp_path, torch.float64)
    _compare(model, reference, 1e-12)


@pytest.mark.parametrize("head", few(HEADS, 3))
@interpreted
def test_losses_of_kernels_are_the_references(head: str, tmp_path: Path) -> None:
    model, reference = _pair(head, tmp_path, torch.float32)
    assert ("linear_cross_entropy" in vars(sys.modules[type(model).__module__].kernels)) == (head in CUT)
    _compare(model, reference.double(), 2e-6)


@pytest.mark.parametrize("head", ["plain", "bias", "capped"])
def test_bfloat16_is_as_near_as_the_whole(head: str, tmp_path: Path) -> None:
    _check_bfloat16(head, tmp_path)


@pytest.mark.parametrize("head", ["plain", "bias", "capped"])
@interpreted
def test_bfloat16_of_kernels_is_as_near_as_the_whole(head: str, tmp_path: Path) -> None:
    _check_bfloat16(head, tmp_path)


def _check_bfloat16(head: str, folder: Path) -> None:
    """The gradients of a loss in chunks are as near to float64 as those of all logits at once."""
    model, _ = _pair(head, folder, torch.bfloat16)
    whole = type(model).__bases__[0].cross_entropy
    exact = copy.deepcopy(model).double()
    _, labels, weights = _batch()
    shares = (labels != -100) * weights / weights[labels != -100].sum()
    errors: dict[str, list[float]] = {"chunks": [], "whole": []}
    for _ in range(8):
        h = torch.randn(2, 9, 12).bfloat16()
        truth = _head_gradients(exact, type(exact).cross_entropy, h.double(), labels, shares.double())
        for name, function in (("chunks", type(model).cross_entropy), ("whole", whole)):
            found = _head_gradients(model, function, h, labels, shares)
            errors[name] += [distance(mine, right) for mine, right in zip(found, truth, strict=True)]
    assert math.hypot(*errors["chunks"]) <= 1.01 * math.hypot(*errors["whole"])


def _head_gradients(model: Any, loss: Any, h: Tensor, labels: Tensor, shares: Tensor) -> list[Tensor]:
    """Gradients for what the head reads and for its weights."""
    h = h.clone().requires_grad_()
    value = loss(model, h, labels, shares, 0.01)
    found = torch.autograd.grad(value, [h, *model.parameters()], allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


class _Made(TorchDispatchMode):
    """The tensors that all ops make."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.tensors += [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        return result


@pytest.mark.parametrize("head", HEADS)
def test_the_logits_of_all_tokens_are_never_held(head: str, tmp_path: Path) -> None:
    """Forward and backward, but for the heads that are not cut off."""
    model, _ = _pair(head, tmp_path, torch.float32)
    tokens = torch.randint(0, VOCABULARY, (4, 16))
    for value in (lambda: model.loss(tokens, tokens), lambda: model.log_probs(tokens).sum()):
        with _Made() as made:
            value().backward()
        largest = max(tensor.numel() for tensor in made.tensors)
        assert (largest >= 4 * 15 * VOCABULARY) == (head not in CUT)


@pytest.mark.parametrize("head", ["plain", "capped"])
def test_without_gradients_none_are_computed(head: str, tmp_path: Path) -> None:
    model, _ = _pair(head, tmp_path, torch.float32)
    tokens, labels, _ = _batch()

    class Count(TorchDispatchMode):
        products = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.products += "mm" in str(function)
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Count() as count:
        model.loss(tokens, labels)
    assert count.products == 2 + math.ceil(2 * 8 / ROWS)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_labels_are_so_far_ahead(ahead: int, tmp_path: Path) -> None:
    """At 0 a model fills in tokens; otherwise it tells which will come."""
    model, _ = _pair("plain", tmp_path, torch.float64)
    tokens, labels, _ = _batch()
    logits, targets = model(tokens)[:, : 9 - ahead], labels[:, ahead:]
    truth = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(model.loss(tokens, labels, ahead=ahead), truth)


@pytest.mark.parametrize("head", few(["tied", "bias", "capped"], 1))
def test_a_loss_is_compiled_whole(head: str, tmp_path: Path) -> None:
    model, _ = _pair(head, tmp_path, torch.float32)
    tokens, labels, weights = _batch()

    def loss(tokens: Tensor, labels: Tensor) -> Tensor:
        value: Tensor = model.loss(tokens, labels, weights=weights, z_loss=0.1)
        return value

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    value, expected = compiled(tokens, labels), loss(tokens, labels)
    torch.testing.assert_close(value, expected)
    found, truth = _gradients(model, value), _gradients(model, expected)
    torch.testing.assert_close(found, truth)


def test_a_graph_that_is_kept_gives_its_gradients_again(tmp_path: Path) -> None:
    """Each pass with a factor of its own, and without a change of what an earlier one has given."""
    model, _ = _pair("bias", tmp_path, torch.float64)
    tokens, labels, _ = _batch()
    value, parameters = model.loss(tokens, labels), list(model.parameters())
    first = torch.autograd.grad(3 * value, parameters, retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    second = torch.autograd.grad(2 * value, parameters)
    torch.testing.assert_close(list(first), kept, rtol=0, atol=0)
    torch.testing.assert_close(second, tuple(gradient * (2 / 3) for gradient in kept))


def test_a_gradient_of_a_gradient_is_refused(tmp_path: Path) -> None:
    """Gradients that were computed with the loss do not know of it: that of them would be wrong."""
    model, _ = _pair("bias", tmp_path, torch.float64)
    tokens, labels, _ = _batch()
    for value in (model.loss(tokens, labels), model.log_probs(tokens).sum()):
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(value.square(), parameters, create_graph=True)
        with pytest.raises(RuntimeError, match="Reference has"):
            torch.autograd.grad(sum(gradient.sum() for gradient in gradients), parameters)


def test_rows_whose_logits_are_no_larger_than_a_wide_sum_are_one_chunk(tmp_path: Path) -> None:
    """Then the weight's gradient is one product, and nothing as large as the weight is ever wider than it."""
    model, _ = _pair("plain", tmp_path, torch.bfloat16)

    def sums(rows: int) -> set[torch.dtype]:
        with _Made() as made:
            model.loss(*[torch.zeros(1, rows + 1, dtype=torch.int64)] * 2).backward()
        return {tensor.dtype for tensor in made.tensors if tensor.shape == (VOCABULARY, 12)}

    assert sums(12) == {torch.bfloat16}
    assert sums(13) == {torch.bfloat16, torch.float32}


@interpreted
def test_rows_of_any_size_and_targets_that_do_not_count() -> None:
    """Logits far apart, equal, and minus infinity; a target that is no token is not taken for one."""
    kernels = sys.modules[_package("plain").Model.__module__].kernels
    logits = torch.randn(5, VOCABULARY, dtype=torch.float64)
    logits[1] *= 1e4
    logits[2] = -3e4
    logits[3, ::2] = -math.inf
    targets = torch.tensor([4, 7, 0, 11, -100])
    shares, z_loss = torch.tensor([0.5, 1.0, 2.0, 0.25, 0.0]), 1e-3
    exact, given = logits.float().double(), logits.float()
    expected = kernels._linear_cross_entropy_rows(exact, targets, shares.double(), z_loss, True)
    found = kernels._linear_cross_entropy(given, targets, shares, z_loss, True)
    for mine, truth in zip((*found, given), (*expected, exact), strict=True):
        torch.testing.assert_close(mine.double(), truth, rtol=1e-5, atol=1e-6)
    column = torch.stack([targets, targets + 1], 1)[:, 0]  # as labels of two tokens, cut to the last ones
    apart, _ = kernels._linear_cross_entropy(logits.float(), column, shares, z_loss, False)
    torch.testing.assert_close(apart, found[0])
    wrong, _ = kernels._linear_cross_entropy(logits.float(), targets + VOCABULARY, shares, 0.0, False)
    assert wrong.isnan().all()


@interpreted
def test_the_op_is_registered_as_pytorch_wants_it() -> None:
    kernels = sys.modules[_package("plain").Model.__module__].kernels
    given = (torch.randn(3, VOCABULARY), torch.tensor([1, 2, -100]), torch.ones(3), 0.1, True)
    check_op(kernels._linear_cross_entropy, given)


CONTROLS = [
    ("highest = higher", "highest = tl.max(x, 0)"),
    ("chosen - peak - rest", "chosen - peak"),
    ("tl.sum(tl.exp(x", "tl.max(tl.exp(x"),
    ("1.0 + 2.0 * z_loss", "1.0 + z_loss"),
    ("start + place == token, share", "start + place == token + 1, share"),
    ('other=-3.0e38, eviction_policy="evict_last"', 'other=9.0, eviction_policy="evict_last"'),
    ("dh[part] = torch.mm", "dh[:3] = torch.mm"),
    ("z_loss * lse * lse - log_probs", "-log_probs"),
    ("total.addmm_(a, b, beta=beta)", "total.copy_(torch.mm(a, b))"),
    ("gradient * factor, mask", "gradient, mask"),
    ("targets == -100, 0.0, -dlog_probs", "targets == -100, 0.0, dlog_probs"),
]


@pytest.mark.parametrize(("old", "new"), few(CONTROLS, 4))
@interpreted
def test_a_wrong_loss_is_found(old: str, new: str, tmp_path: Path) -> None:
    original = compiler.package_files
    hazards.rest()

    def changed(compilation: Any, origin: Any) -> dict[str, str]:
        files = original(compilation, origin)
        assert old in files["kernels.py"]
        return files | {"kernels.py": files["kernels.py"].replace(old, new)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "package_files", changed)
        wrong = _build("plain", tmp_path)
    model, reference = _pair("plain", tmp_path, torch.float32, wrong)
    with pytest.raises(AssertionError):
        _compare(model, reference.double(), 2e-6)
