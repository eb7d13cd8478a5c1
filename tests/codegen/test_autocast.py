"""Mixed precision: weights in float32 under torch.autocast, in training and in decoding."""

from __future__ import annotations

import functools
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from tests.codegen.attention_steps import module_beside
from tests.codegen.interpreter import interpreted
from tests.codegen.test_recurrence import spec as recurrent_spec
from tests.support import SPECS, build, distance, few, scramble

TINY = {
    "gemma2_tiny": "gemma2",  # windows, so rings; scores under a soft cap
    "deepseek_v3_tiny": "deepseek_v3",  # latents, absorbed; experts
    "qwen3_next_tiny": "qwen3_next",  # states and convolutions
    "bloom_tiny": "bloom",  # slopes
}
ROUNDED = 0.05  # more than bfloat16's rounding through the layers of a tiny model, far less than a fault
every = pytest.mark.parametrize("name", TINY)


@functools.cache
def _model(name: str) -> Any:
    made = build(SPECS / f"{TINY[name]}.arch", name, Path(mkdtemp())).Model()
    scramble(made, 0)
    return made


def _tokens() -> torch.Tensor:
    return torch.randint(0, 160, (2, 9), generator=torch.Generator().manual_seed(0))


def _typical(value: torch.Tensor, truth: torch.Tensor) -> float:
    """The median token's distance: rounding may send one to another expert."""
    return median(distance(*both) for both in zip(value.flatten(0, 1), truth.flatten(0, 1), strict=True))


def _check_decoding(name: str) -> None:
    """A prompt and then token by token is as near to float32 as all at once, whatever the cache's dtype."""
    model, tokens = _model(name), _tokens()
    wide = model.new_cache(2, 9)
    with torch.no_grad():
        exact = model(tokens)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        rounded = _typical(model(tokens), exact)
        assert 0 < rounded < ROUNDED
        half = model.new_cache(2, 9)
        assert any(store.dtype == torch.bfloat16 for layer in half.layers for store in layer.values())
        for cache in (half, wide):
            pieces = [model(piece, cache=cache) for piece in tokens.split([6, 1, 1, 1], 1)]
            assert _typical(torch.cat(pieces, 1), exact) < 2 * rounded
        assert model.generate(tokens, 3).shape == (2, 12)


@every
def test_decoding(name: str) -> None:
    _check_decoding(name)


@pytest.mark.parametrize("name", few(reversed(TINY), 1))
@interpreted
def test_decoding_with_kernels(name: str) -> None:
    _check_decoding(name)


SHIFTED = """arch Shifted(d = 12) {
  forward(others: [B, N], tokens: [B, T] = 0) {
    m = embedding(others, 160, d) as others
    x = embedding(tokens, 160, d) as embed
    for i in 0..2 as layers {
      h = rms_norm(x, 1e-6) as norm
      q = split_heads(linear(h, 12) as q, 2)
      BLOCK
      x = x + linear(merge_heads(o), d) as out
    }
    return linear(x + transpose(unsqueeze(first_token(m))), 160) as head
  }
}
model shifted = Shifted()
"""
OWN = """q = concat(slice(q, 0, 2), slice(q, 2, 4) + parameter([2, 2]) as shift)
      k, v = rotate(split_heads(linear(h, 4) as k, 1), rope(100)), split_heads(linear(h, 4) as v, 1)
      o = attention(q, k, v, mask = causal)"""
LATENT = """c, key = split(linear(h, 14) as down, [10, 4])
      k, v = split(split_heads(linear(c, 24) as up, 2), 2)
      key = expand_heads(rotate(split_heads(key, 1), rope(100)), 2)
      q = concat(q, rotate(split_heads(linear(h, 8) as q_turned, 2), rope(100)) + parameter([2, 4]) as shift)
      o = attention(q, concat(k, key), v, mask = causal)"""
ANOTHERS = """q = q + parameter([2, 6]) as shift
      k, v = split(split_heads(linear(m, 24) as kv, 2), 2)
      o = attention(q, k, v, mask = full)"""


@pytest.mark.parametrize("block", [OWN, LATENT, ANOTHERS], ids=["own", "latent", "another's"])
@interpreted
def test_queries_that_a_parameter_widens_read_what_is_kept(block: str, tmp_path: Path) -> None:
    """On the device a token's queries in float32 meet keys in bfloat16."""
    model = build(SHIFTED.replace("BLOCK", block), "shifted", tmp_path).Model()
    scramble(model, 0)
    tokens = _tokens()
    with torch.no_grad():
        exact = model(tokens, tokens)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = _typical(model(tokens, tokens), exact)
            cache = model.new_cache(2, 9)
            parts = [model(tokens, tokens[:, :6], cache=cache)]
            cache.start_steps()
            parts += [model(None, tokens[:, n : n + 1], cache=cache) for n in range(6, 9)]
    assert _typical(torch.cat(parts, 1), exact) < 2 * rounded


@every
def test_training(name: str) -> None:
    """The loss is that of float32 but for rounding, and gradients are in the weights' dtype."""
    model, tokens = _model(name), _tokens()
    expected = model.loss(tokens, tokens).item()
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(tokens, tokens)
    loss.backward()
    assert loss.dtype == torch.float32
    assert abs(loss.item() - expected) < ROUNDED * expected
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in trained)


def test_products_of_experts_are_in_its_dtype() -> None:
    """As PyTorch's own products are: on a GPU they would not use the tensor cores otherwise."""
    experts = module_beside(_model("deepseek_v3_tiny"), "experts")
    x, weight, ends = torch.randn(8, 12), torch.randn(2, 5, 12, requires_grad=True), torch.tensor([3, 8])
    with torch.autocast("cpu", torch.bfloat16):
        y = experts.grouped_linear(x, weight, ends)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    exact = torch.cat([x[:3] @ weight[0].T, x[3:] @ weight[1].T])
    assert distance(y, exact) < ROUNDED
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize(("form", "decays"), [("decay", (4,)), ("delta", (4,)), ("erase", (4, 6))])
def test_states_are_not_rounded(form: str, decays: tuple[int, ...], tmp_path: Path) -> None:
    """What many tokens do to a state is float32's, as what one does is, and so are its gradients."""
    kernels = module_beside(build(recurrent_spec(form), "recurrent", tmp_path).Model(), "kernels")
    gates = {
        "delta": {"beta": torch.rand(2, 20, 4)},
        "erase": {name: 0.3 * torch.randn(2, 20, 4, 6) for name in ("erase", "renew")},
    }
    q, k, v = torch.randn(2, 20, 2, 6), torch.randn(2, 20, 2, 6), torch.randn(2, 20, 4, 10)
    log_decay = -torch.rand(2, 20, *decays)
    given = {"q": q, "k": k, "v": v, "log_decay": log_decay} | gates.get(form, {})

    places = torch.arange(20)[None]

    def found(rounded: bool) -> list[torch.Tensor]:
        floats = {name: each.clone().requires_grad_() for name, each in given.items()}
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            o = kernels.linear_attention(**floats, positions=places, state=None)
            with torch.no_grad():
                alone = kernels.linear_attention(**given, positions=places, state=None)
            within = torch.autograd.grad(o.square().sum(), list(floats.values()), retain_graph=True)
        return [o, alone, *within, *torch.autograd.grad(o.square().sum(), list(floats.values()))]

    for value, expected in zip(found(rounded=True), found(rounded=False), strict=True):
        assert torch.equal(value, expected)


@interpreted
def test_a_residual_stream_is_not_rounded(tmp_path: Path) -> None:
    """What a linear map gives in bfloat16 is normed and added to it in float32."""
    kernels = build(SPECS / "olmo2.arch", "olmo2_tiny", tmp_path).kernels
    generator = torch.Generator().manual_seed(0)
    residual, weight = torch.randn(2, 5, 48, generator=generator), torch.ones(48)
    x = torch.randn(2, 5, 48, generator=generator).bfloat16()
    made = kernels.rms_norm_add(x, residual, weight)
    assert made.dtype == torch.float32
    assert distance(made, residual + torch.nn.functional.rms_norm(x.float(), (48,), weight, 1e-6)) < 1e-6
