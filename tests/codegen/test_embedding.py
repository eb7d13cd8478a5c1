"""The gradient of tables, in Triton's interpreter, against float64."""

from __future__ import annotations

import functools
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.codegen.interpreter import interpreted
from tests.gpu import is_on
from tests.instruments.traffic import measure
from tests.support import build, distance

ROWS = 40
_TABLE = "arch A() { forward(tokens: [B, T]) { return embedding(tokens, 40, 12) as wte } }\nmodel a = A()"


@functools.cache
def _kernels(folder: Path) -> Any:
    return sys.modules[build(_TABLE, "a", folder).Model.__module__].kernels


def _runs(*lengths: int) -> Tensor:
    """Tokens that are 0, 1, ... so many times, in a random order."""
    tokens = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return tokens[torch.randperm(len(tokens))]


# Shares are of 64 places of the order.
TOKENS = {
    "two sequences": lambda: torch.randint(0, ROWS, (2, 5)),
    "a single one": lambda: torch.tensor(7),
    "none": lambda: torch.zeros(0, 3, dtype=torch.int64),
    "one share, all of it": lambda: _runs(64),
    "ends of shares": lambda: _runs(64, 63, 2, 127, 1),
    "one token in all shares": lambda: torch.full((3, 100), 5),
    "through the middle of shares": lambda: _runs(10, 150, 30, 70),
    "more shares than are summed at a time": lambda: _runs(3, 64 * 18, 9).view(4, -1),
    "numbers of half the size": lambda: _runs(100, 1, 60).int(),
}


CASES = [*((kind, torch.bfloat16) for kind in TOKENS), ("through the middle of shares", torch.float32)]


@pytest.mark.parametrize(("kind", "dtype"), CASES, ids=str)
@interpreted
def test_the_sums_of_rows(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tokens, weight = TOKENS[kind](), torch.randn(ROWS, 12).to(dtype).requires_grad_()
    y = _kernels(tmp_path.parent).embedding(tokens, weight)
    assert torch.equal(y, F.embedding(tokens, weight))
    dy = torch.randn(y.shape).to(dtype)
    ours, again = (torch.autograd.grad(y, weight, dy, retain_graph=True)[0] for _ in range(2))
    theirs = torch.ops.aten.embedding_dense_backward(dy, tokens, ROWS, -1, False)
    truth = torch.zeros(ROWS, 12, dtype=torch.float64)
    truth.index_add_(0, tokens.flatten(), dy.double().view(-1, 12))
    assert torch.equal(ours, again)
    assert torch.equal(ours == 0, truth == 0)
    if tokens.numel():
        # In float32 either order of a sum may be the nearer one.
        assert distance(ours, truth) <= max(distance(theirs, truth), 2e-7)


@interpreted
def test_gradients_of_any_stride(tmp_path: Path) -> None:
    """As a sum gives, or a part of a wider tensor."""
    tokens, weight = _runs(70, 9), torch.zeros(ROWS, 12, requires_grad=True)
    y = _kernels(tmp_path.parent).embedding(tokens, weight)
    wide = torch.randn(79, 30)
    for dy in (torch.ones(()).expand(79, 12), wide[:, 5:17], torch.randn(12, 79).t()):
        (ours,) = torch.autograd.grad(y, weight, dy, retain_graph=True)
        assert distance(ours, torch.zeros(ROWS, 12).index_add_(0, tokens, dy)) < 1e-6


@interpreted
def test_tables_that_nothing_is_learnt_of_are_pytorchs(tmp_path: Path) -> None:
    kernels, tokens = _kernels(tmp_path.parent), torch.arange(3)
    frozen, learnt = (torch.zeros(4, 12, requires_grad=trained) for trained in (False, True))
    assert kernels.embedding(tokens, frozen).grad_fn is None
    with torch.no_grad():
        assert kernels.embedding(tokens, learnt).grad_fn is None
    wide = learnt.detach().double().requires_grad_()
    assert "EmbeddingBackward" in type(kernels.embedding(tokens, wide).grad_fn).__name__


@pytest.mark.skipif(is_on(), reason="Triton's interpreter is what counts bytes")
@interpreted
def test_rows_are_read_once_and_written_once(tmp_path: Path) -> None:
    """Beside the zeros of the table; what shares leave of their first and last token is written and read."""
    backward = _kernels(tmp_path.parent)._embedding_backward.launch
    tokens, dy = _runs(150, 20, 30), torch.randn(200, 12, dtype=torch.bfloat16)
    moved = measure(lambda: backward(dy, tokens, ROWS)).moved
    kernel, second = "_embedding_gradient_kernel", "_embedding_gradient_sum_kernel"
    assert moved[kernel, "dy_ptr", "load"].first == dy.nbytes
    assert moved[kernel, "dy_ptr", "load"].again == 0
    assert sum(moved[each, "dweight_ptr", "store"].first for each in (kernel, second)) == 3 * 12 * 2
    # 150 of one token are in three shares, 20 of the next in one, 30 of the last in two
    parts = moved[kernel, "partial_ptr", "store"].first, moved[second, "partial_ptr", "load"].first
    assert parts == (5 * 12 * 4, 5 * 12 * 4)


_TIED = """
arch A(d = 12, tied = true) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 40, d) as wte
    x = x + embedding(positions(tokens), 16, d) as wpe
    return linear(x, 40, tied_to = wte if tied) as head
  }
}
model a = A()
model b = A(tied = false)
"""


@pytest.mark.parametrize("model", ["a", "b"])
@interpreted
def test_a_model_learns_its_tables(model: str, tmp_path: Path) -> None:
    """Also where the loss has a gradient for the same weight, and compiled as a whole."""
    package = build(_TIED, model, tmp_path)
    fused, plain = package.Model(), package.Reference()
    plain.load_state_dict(fused.state_dict())
    tokens = torch.randint(0, 40, (3, 16))
    compiled = torch.compile(fused.loss, fullgraph=True, backend="aot_eager")
    for loss in (fused.loss, compiled):
        fused.zero_grad()
        plain.zero_grad()
        loss(tokens, tokens).backward()
        plain.loss(tokens, tokens).backward()
        for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
            assert distance(ours.grad, theirs.grad) < 1e-5


def test_a_fusion_of_the_same_name_has_another(tmp_path: Path) -> None:
    fusion = "fuse embedding(x) { return silu(x) * x }"
    body = "x = embedding(tokens, 40, 12) as wte return silu(x) * x"
    spec = f"{fusion} arch A() {{ forward(tokens: [B, T]) {{ {body} }} }} model a = A()"
    text = inspect.getsource(build(spec, "a", tmp_path).Model.forward)
    assert "x = kernels.embedding(tokens, self.wte)" in text
    assert "kernels.embedding_2(x)" in text
