"""Gradients by torch.func, also of each example by itself, and second derivatives: right or refused."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.codegen.interpreter import interpreted
from tests.support import SPECS, build, distance, scramble

TINY = {
    "gpt2_tiny": "gpt2",
    "mamba2_tiny": "mamba2",  # states and convolutions
    "mixtral_tiny": "mixtral",  # experts
    "qwen3_next_tiny": "qwen3_next",  # all of these, and the delta rule
}
BY_EXAMPLE = ("gpt2_tiny", "mamba2_tiny")  # experts are sorted by what all tokens have chosen
TOKENS = torch.randint(0, 60, (3, 10), generator=torch.Generator().manual_seed(0))


@functools.cache
def _package(name: str) -> Any:
    return build(SPECS / f"{TINY[name]}.arch", name, Path(mkdtemp()))


@functools.cache
def _model(name: str, dtype: torch.dtype = torch.float64) -> Any:
    model = _package(name).Model(dtype=dtype)
    scramble(model, 0)
    return model


def _loss(model: Any, weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    logits = torch.func.functional_call(model, weights, (tokens,))
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def _weights(model: Any) -> dict[str, Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _detached(model: Any) -> dict[str, Tensor]:
    """As torch.func takes them, which alone differentiates by them."""
    return {name: weight.detach() for name, weight in _weights(model).items()}


def _gradients(model: Any, tokens: Tensor) -> dict[str, Tensor]:
    weights = _weights(model)
    return dict(
        zip(weights, torch.autograd.grad(_loss(model, weights, tokens), weights.values()), strict=True)
    )


@pytest.mark.parametrize("name", TINY)
def test_gradients(name: str) -> None:
    model = _model(name)
    found = torch.func.grad(lambda given: _loss(model, given, TOKENS))(_detached(model))
    for key, truth in _gradients(model, TOKENS).items():
        assert distance(found[key], truth) <= 1e-12, key


class _Training(nn.Module):
    """A model whose loss is its call, as torch.func takes modules."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        loss: Tensor = self.model.loss(tokens, tokens, z_loss=0.01) + self.model.log_probs(tokens).sum()
        return loss


@pytest.mark.parametrize("name", TINY)
def test_gradients_of_the_loss(name: str) -> None:
    """Which is computed in chunks otherwise, with their gradients."""
    module = _Training(_model(name))
    weights = _weights(module)
    truths = torch.autograd.grad(module(TOKENS), list(weights.values()))
    found = torch.func.grad(lambda given: torch.func.functional_call(module, given, (TOKENS,)))(
        _detached(module)
    )
    for key, truth in zip(weights, truths, strict=True):
        assert distance(found[key], truth) <= 1e-12, key


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch loops over attention
@pytest.mark.parametrize("name", BY_EXAMPLE)
def test_gradients_of_each_example(name: str) -> None:
    _check_each_example(_model(name), TOKENS, 1e-12)


@interpreted
def test_gradients_of_each_example_by_kernels() -> None:
    _check_each_example(_model("gpt2_tiny", torch.float32), TOKENS[:2, :3], 1e-5)


@pytest.mark.parametrize("kind", ["Model", "Reference"])
@pytest.mark.parametrize("place", ["tokens", "weights"])
def test_experts_by_example_are_refused(kind: str, place: str) -> None:
    model = getattr(_package("mixtral_tiny"), kind)()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    if place == "tokens":
        mapped = torch.func.vmap(torch.func.grad(lambda w, one: _loss(model, w, one[None])), (None, 0))
        given = weights, TOKENS
    else:
        mapped = torch.func.vmap(lambda w, tokens: _loss(model, w, tokens), (0, None))
        given = {name: weight.expand(2, *weight.shape) for name, weight in weights.items()}, TOKENS
    with pytest.raises(ValueError, match=r"vmap cannot map experts.*call each example by itself"):
        mapped(*given)


def _check_each_example(model: Any, tokens: Tensor, bound: float) -> None:
    of_one = torch.func.grad(lambda given, example: _loss(model, given, example[None]))
    found = torch.func.vmap(of_one, (None, 0))(_detached(model), tokens)
    for row, example in enumerate(tokens):
        for key, truth in _gradients(model, example[None]).items():
            assert distance(found[key][row], truth) <= bound, key


def _twice(loss: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """The gradient of the gradients' squares, as one vector."""
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    squares = sum(gradient.square().sum() for gradient in gradients)
    return torch.cat([x.flatten() for x in torch.autograd.grad(squares, list(weights.values()))])


def test_second_derivatives_of_products_of_chunks(tmp_path: Path) -> None:
    model = _model("mamba2_tiny")
    model.save_pretrained(tmp_path)
    reference = _package("mamba2_tiny").Reference.from_pretrained(tmp_path, dtype=torch.float64)
    found, truth = (
        _twice(_loss(each, _weights(each), TOKENS), _weights(each)) for each in (model, reference)
    )
    assert distance(found.norm(), truth.norm()) <= 1e-10


def _refuses_a_second(loss: Tensor, weights: Mapping[str, Tensor]) -> None:
    with pytest.raises(RuntimeError, match="Reference has"):
        _twice(loss, weights)


def test_second_derivatives_of_experts_are_refused() -> None:
    model = _model("qwen3_next_tiny")
    _refuses_a_second(_loss(model, _weights(model), TOKENS), _weights(model))


def test_second_derivatives_of_a_loss_in_chunks_are_refused() -> None:
    model = _model("mamba2_tiny")
    _refuses_a_second(model.loss(TOKENS, TOKENS), _weights(model))


@interpreted
def test_second_derivatives_of_kernels_are_refused() -> None:
    model = _model("gpt2_tiny", torch.float32)
    _refuses_a_second(_loss(model, _weights(model), TOKENS[:1, :4]), _weights(model))
