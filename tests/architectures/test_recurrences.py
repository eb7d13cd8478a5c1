"""Recurrences against torch.nn and against their papers' equations, in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archc.analysis.cache import cache_size
from tests.instruments.counted_step import counted_step
from tests.instruments.planned_step import planned_step
from tests.support import build, compile_model

SPECS = Path(__file__).parent
TOKENS = torch.tensor([[3, 14, 15, 9, 2, 6], [5, 35, 8, 9, 7, 9]])

Mixer = Callable[[dict[str, Tensor], Tensor], Tensor]


def torch_cell(module: Callable[..., nn.RNNBase]) -> Mixer:
    """The recurrence of a module of torch, whose weights are those of a spec's maps `ih` and `hh`."""

    def mix(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        hidden = weights["hh.weight"].shape[1]
        cell = module(x.shape[-1], hidden, batch_first=True)
        names = {
            f"{kind}_{place}_l0": weights[f"{place}.{kind}"]
            for kind in ("weight", "bias")
            for place in ("ih", "hh")
        }
        start = weights.get("start")
        first = () if start is None else (start.expand(1, len(x), hidden).contiguous(),)
        y, _ = torch.func.functional_call(cell, names, (x, *first))
        return torch.as_tensor(y) @ weights["out.weight"].T

    return mix


def slstm(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """arXiv 2405.04517, equations 8 to 14, without a stabiliser: it changes nothing in exact arithmetic."""
    recurrent = weights["R.weight"]  # [heads, 4 * width, width]
    heads, _, width = recurrent.shape
    h = c = n = x.new_zeros(len(x), heads, width)
    results = []
    for token in x.unbind(1):
        pre = token @ weights["W.weight"].T + weights["W.bias"]
        pre = pre.view(len(x), heads, -1) + torch.einsum("hgw,bhw->bhg", recurrent, h)
        z, i, f, o = pre.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.exp(i) * torch.tanh(z)
        n = torch.sigmoid(f) * n + torch.exp(i)
        h = torch.sigmoid(o) * c / n
        results.append(nn.functional.layer_norm(h, (width,), eps=1e-5).flatten(1))
    return torch.stack(results, 1) @ weights["out.weight"].T


def titans(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """arXiv 2501.00663, equations 8 to 14: the slope of the memory's loss is that of autograd."""
    w, u = (weights[name].expand(len(x), *weights[name].shape) for name in ("w", "u"))
    heads, width = w.shape[1:3]
    w_step, u_step = torch.zeros_like(w), torch.zeros_like(u)
    results = []
    for token in x.unbind(1):
        rows = [(token @ weights[f"{n}.proj.weight"].T).view(-1, heads, width) for n in "qkv"]
        q, k, v = (nn.functional.rms_norm(each, (width,), eps=1e-5) for each in rows)
        gates = torch.sigmoid(token @ weights["gates.weight"].T + weights["gates.bias"])
        forget, keep, rate = gates.view(-1, heads, 3, 1, 1).unbind(2)

        def recall(w: Tensor, u: Tensor, key: Tensor) -> Tensor:
            return (torch.tanh(key[:, :, None] @ w) @ u)[:, :, 0]

        loss = 0.5 * ((recall(w, u, k) - v) ** 2).sum()
        slopes = torch.autograd.grad(loss, (w, u), create_graph=True)
        w_step, u_step = keep * w_step - rate * slopes[0], keep * u_step - rate * slopes[1]
        w, u = (1 - forget) * w + w_step, (1 - forget) * u + u_step
        results.append(recall(w, u, q).flatten(1))
    return torch.stack(results, 1) @ weights["out.weight"].T


def delta_product(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """arXiv 2502.10297, equations 3 to 5, gated: one Householder product after the other."""
    heads, keys, values, steps = 2, 6, 8, 3
    state = x.new_zeros(len(x), heads, keys, values)
    results = []
    for token in x.unbind(1):
        made = {name: token @ weights[f"{name}.weight"].T for name in "qkvba"}
        q, k = made["q"].view(-1, heads, keys), nn.functional.silu(made["k"]).view(-1, steps, heads, keys)
        q, k = (each / (each.square().sum(-1, keepdim=True) + 1e-5).sqrt() for each in (q, k))
        v, beta = made["v"].view(-1, steps, heads, values), 2 * made["b"].sigmoid().view(
            -1, steps, heads, 1, 1
        )
        state = state * torch.sigmoid(-made["a"] - weights["a.bias"])[..., None, None]
        for step in range(steps):
            key, value = k[:, step, :, :, None], v[:, step, :, None, :]
            turn = torch.eye(keys, dtype=x.dtype) - beta[:, step] * (key @ key.mT)
            state = turn @ state + beta[:, step] * (key @ value)
        o = (q[:, :, None, :] @ state)[:, :, 0] * keys**-0.5
        results.append(nn.functional.rms_norm(o, (values,), weights["norm.weight"], eps=1e-5).flatten(1))
    return torch.stack(results, 1) @ weights["out.weight"].T


MIXERS: dict[str, Mixer] = {
    "delta_product": delta_product,
    "gru": torch_cell(nn.GRU),
    "lstm": torch_cell(nn.LSTM),
    "slstm": slstm,
    "titans": titans,
}
PATHS = {
    "delta_product": "mixer",
    "titans": "memory",
}  # where a layer's mixer lies; by its own name if not here


def expected(model: str, weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The logits of a residual stream of two layers around a mixer."""

    def norm(x: Tensor, name: str) -> Tensor:
        return nn.functional.rms_norm(x, x.shape[-1:], weights[f"{name}norm.weight"], eps=1e-5)

    x = weights["embed.weight"][tokens]
    for layer in range(2):
        start = f"layers.{layer}.{PATHS.get(model, model)}."
        own = {name.removeprefix(start): weights[name] for name in weights if name.startswith(start)}
        x = x + MIXERS[model](own, norm(x, f"layers.{layer}."))
    return norm(x, "") @ weights["head.weight"].T


@functools.cache
def package(model: str, folder: Path) -> ModuleType:
    return build(SPECS / f"{model}.arch", model, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scans")


def filled(model: Any) -> Any:
    """A model with other weights than it starts with, so that everything in it matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def itself(tensor: Tensor) -> Tensor | None:
    return tensor


def checkpoint(model: Any, of: Callable[[Tensor], Tensor | None] = itself) -> dict[str, Tensor]:
    """The checkpoint's tensors, or something else `of` parameters: each is some rows of a parameter."""
    found: dict[str, Tensor] = {}
    for module in (each for each in model.modules() if hasattr(each, "stored")):
        for name, stored in module.stored().items():
            tensor = of(module.get_parameter(name))
            assert tensor is not None
            parts = tensor.split([each.rows for each in stored])
            found.update(zip((each.name for each in stored), parts, strict=True))
    return found


@pytest.mark.parametrize("model", sorted(MIXERS))
def test_logits_and_gradients_are_those_of_another_implementation(model: str, folder: Path) -> None:
    built = filled(package(model, folder).Model(dtype=torch.float64))
    weights = {name: tensor.detach().clone().requires_grad_() for name, tensor in checkpoint(built).items()}
    logits, own = expected(model, weights, TOKENS), built(TOKENS)
    torch.testing.assert_close(own, logits, rtol=1e-9, atol=1e-9)
    upstream = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (logits * upstream).sum().backward()
    (own * upstream).sum().backward()
    for name, slope in checkpoint(built, of=lambda parameter: parameter.grad).items():
        torch.testing.assert_close(slope, weights[name].grad, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("model", sorted(MIXERS))
def test_a_ragged_batch_goes_on_from_its_states(model: str, folder: Path) -> None:
    """Left padding, a prompt, then several tokens, then one: states start where a sequence does."""
    built = filled(package(model, folder).Model(dtype=torch.float64)).eval()
    weights = {name: tensor.detach().requires_grad_() for name, tensor in checkpoint(built).items()}
    padding = torch.ones_like(TOKENS, dtype=torch.bool)
    padding[0, :4] = False  # the first call has no token of this sequence at all
    cache = built.new_cache(2, 6)
    with torch.no_grad():
        pieces = [
            built(TOKENS[:, a:b], padding=padding[:, a:b] if a < 5 else None, cache=cache)
            for a, b in ((0, 3), (3, 5), (5, 6))
        ]
    own = torch.cat(pieces, 1)
    torch.testing.assert_close(own[:1, 4:], expected(model, weights, TOKENS[:1, 4:]))
    torch.testing.assert_close(own[1:], expected(model, weights, TOKENS[1:]))


def test_exponential_gates_overflow_nothing(folder: Path) -> None:
    """Input gates of e^200 are beyond float32; states are kept divided by them."""
    built = filled(package("slstm", folder).Model(dtype=torch.float64))
    with torch.no_grad():
        for layer in built.layers:
            layer.W_bias[12:24] += 200
    logits = built(TOKENS)
    assert logits.isfinite().all()
    torch.testing.assert_close(built.float()(TOKENS).double(), logits, rtol=1e-3, atol=1e-4)


def test_what_a_step_returns_may_be_the_state_before_it(tmp_path: Path) -> None:
    """The state of the last call, which the cache has given up by then."""
    spec = """
arch Late(d = 8) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 50, d) as embed
    y = scan x from (h: [d] = 0.5) {
      before = h
      h = tanh(h + linear(x, d) as w)
      return before
    }
    return linear(y, 50) as head
  }
}
model late = Late()
"""
    built = filled(build(spec, "late", tmp_path).Model(dtype=torch.float32))
    cache = built.new_cache(2, 6)
    with torch.no_grad():
        pieces = [built(TOKENS[:, t : t + 1], cache=cache) for t in range(6)]
        torch.testing.assert_close(torch.cat(pieces, 1), built(TOKENS))


def test_values_may_share_a_decay(tmp_path: Path) -> None:
    """All values, equal parts of them, or by a list of numbers: h = e^log_decay h + x."""
    spec = """
    arch Shared(d = 6) {
      forward(x: float[B, T, d], fade: float[B, T, 1]) {
        return all = linear_recurrence(x, log_decay = fade),
          parts = linear_recurrence(x, log_decay = [-1, -0.5, 0]),
          each = linear_recurrence(x, log_decay = fade * [0, 1, 2, 3, 4, 5])
      }
    }
    model shared = Shared()
    """
    model = build(spec, "shared", tmp_path).Model(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 6, generator=generator, dtype=torch.float64)
    fade = -torch.rand(2, 9, 1, generator=generator, dtype=torch.float64)
    parts = torch.tensor([-1, -1, -0.5, -0.5, 0, 0], dtype=torch.float64).expand_as(x)
    for found, decay in zip(model(x, fade), (fade.expand_as(x), parts, fade * torch.arange(6)), strict=True):
        h, states = torch.zeros(2, 6, dtype=torch.float64), []
        for t in range(9):
            h = decay[:, t].exp() * h + x[:, t]
            states.append(h)
        torch.testing.assert_close(found, torch.stack(states, 1))


def test_a_step_of_decoding_launches_what_the_graph_says(folder: Path) -> None:
    compilation = compile_model(SPECS / "lstm.arch", "lstm")
    planned, counted = planned_step(compilation.fused, 2, 20), counted_step(package("lstm", folder), 2, 20)
    assert planned.count == counted.count
    assert cache_size(compilation.fused, 3, 20, element=2).bytes == 3 * 2 * (16 + 16) * 4
