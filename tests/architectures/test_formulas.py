"""Attention over joined and over chosen keys, and weights by position, as papers write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import pytest
import torch
from torch import Tensor

from archc.verification.packages import stored_tensors
from tests.support import build, distance, scramble

SPECS = Path(__file__).parent
TOKENS, HEADS, KV_HEADS, WIDTH, SIZE = 14, 4, 2, 6, 4
Weights: TypeAlias = Mapping[str, Tensor]
Layers: TypeAlias = list[Callable[[Weights, Tensor], Tensor]]
Built: TypeAlias = tuple[str, ModuleType]


def _normed(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def _heads(x: Tensor, weight: Tensor, width: int) -> Tensor:
    """x W^T in heads of a width."""
    y: Tensor = torch.unflatten(x @ weight.T, -1, (-1, width))
    return y


def _rotated(x: Tensor) -> Tensor:
    """x [T, heads, width] at positions 0, 1, 2..."""
    rates = 10000.0 ** (-torch.arange(0, WIDTH, 2, dtype=torch.float64) / WIDTH)
    angles = (torch.arange(len(x))[:, None] * rates)[:, None]
    a, b = x.chunk(2, -1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def _seen(q: Tensor, keys: list[Tensor], values: list[Tensor], sinks: list[Tensor]) -> Tensor:
    """softmax(q k / sqrt(width)) v over a list of keys, with scores of further keys that have no values."""
    scores = torch.stack([*[q @ key * WIDTH**-0.5 for key in keys], *sinks])
    return torch.softmax(scores, 0)[: len(keys)] @ torch.stack(values)


def _compressed(weights: Weights, x: Tensor) -> list[Tensor]:
    """One key, which is its own value, of each whole block."""
    values, gates = (x @ weights[f"compressor.{name}.weight"].T for name in ("values", "gates"))
    found = []
    for first in range(0, len(x) - SIZE + 1, SIZE):
        block = slice(first, first + SIZE)
        shares = torch.softmax(gates[block] + weights["compressor.places"], 0)
        found.append(_normed((shares * values[block]).sum(0), weights["compressor.norm.weight"]))
    return found


def joined(weights: Weights, x: Tensor) -> Tensor:
    """One softmax over a window of 6 keys, the whole blocks so far, three learned keys and a sink."""
    q, k, v = (_heads(x, weights[f"{name}.weight"], WIDTH) for name in "qkv")
    q, k, blocks = _rotated(q), _rotated(k), _compressed(weights, x)
    rows = []
    for t in range(len(x)):
        first, whole, heads = max(t - 5, 0), blocks[: (t + 1) // SIZE], []
        for h in range(HEADS):
            g = h // (HEADS // KV_HEADS)
            keys = [*k[first : t + 1, g], *whole, *weights["learned.k"][h]]
            values = [*v[first : t + 1, g], *whole, *weights["learned.v"][h]]
            heads.append(_seen(q[t, h], keys, values, [weights["sinks"][h]]))
        rows.append(torch.cat(heads))
    return torch.stack(rows)


def _of_blocks(q: Tensor, k: Tensor, v: Tensor, t: int, chosen: set[int]) -> Tensor:
    """Attention over the keys up to t in some blocks."""
    places = [s for s in range(t + 1) if s // SIZE in chosen]
    return _seen(q, [k[s] for s in places], [v[s] for s in places], [])


def _best(scores: Mapping[int, Tensor], own: int) -> set[int]:
    """The query's own block, and the best of those before it."""
    return {own, *sorted(scores, key=lambda block: -float(scores[block]))[:1]}


def moba(weights: Weights, x: Tensor) -> Tensor:
    """MoBA: each head sees its own block and that with the best mean of keys."""
    q, k, v = (_heads(x, weights[f"{name}.weight"], WIDTH) for name in "qkv")
    q, k = _rotated(q), _rotated(k)
    rows = []
    for t in range(len(x)):
        own, heads = t // SIZE, []
        for h in range(HEADS):
            g = h // (HEADS // KV_HEADS)
            means = {n: q[t, h] @ k[n * SIZE : (n + 1) * SIZE, g].mean(0) for n in range(own)}
            heads.append(_of_blocks(q[t, h], k[:, g], v[:, g], t, _best(means, own)))
        rows.append(torch.cat(heads))
    return torch.stack(rows)


def nsa(weights: Weights, x: Tensor) -> Tensor:
    """NSA: the gated sum of attention over means of blocks, over chosen blocks and over a window."""
    q = _rotated(_heads(x, weights["q.weight"], WIDTH))
    names = ("whole", "chosen", "recent")
    kvs = [_heads(x, weights[f"kv.{name}.weight"], 2 * WIDTH).chunk(2, -1) for name in names]
    gates = torch.sigmoid(_heads(x, weights["gates.weight"], HEADS))
    rows = []
    for t in range(len(x)):
        own, whole = t // SIZE, range((t + 1) // SIZE)
        shares = torch.zeros(HEADS, len(whole), dtype=x.dtype)
        means = [[each[n * SIZE : (n + 1) * SIZE].mean(0) for n in whole] for each in kvs[0]]
        for h in range(HEADS) if whole else ():
            keys = torch.stack([mean[h // 2] for mean in means[0]])
            shares[h] = torch.softmax(keys @ q[t, h] * WIDTH**-0.5, 0)
        heads = []
        for h in range(HEADS):
            g, o = h // 2, torch.zeros(WIDTH, dtype=x.dtype)
            for n in whole:
                o = o + gates[t, 0, h] * shares[h, n] * means[1][n][g]
            importance = {n: shares[2 * g : 2 * g + 2, n].sum() for n in whole if n != own}
            k, v = _rotated(kvs[1][0])[:, g], kvs[1][1][:, g]
            o = o + gates[t, 1, h] * _of_blocks(q[t, h], k, v, t, _best(importance, own))
            recent = slice(max(t - 4, 0), t + 1)
            k, v = _rotated(kvs[2][0])[recent, g], kvs[2][1][recent, g]
            heads.append(o + gates[t, 2, h] * _seen(q[t, h], list(k), list(v), []))
        rows.append(torch.cat(heads))
    return torch.stack(rows)


def hyena(weights: Weights, x: Tensor) -> Tensor:
    """A convolution over all tokens so far, by Fourier's transform."""
    n = torch.arange(64, dtype=x.dtype)[:, None] / 64
    waves = torch.cat([n, torch.cos(2 * 3.14159265 * torch.arange(1, 4) * n)], 1)
    hidden = waves @ weights["features.weight"].T + weights["features.bias"]
    filters = torch.sin(hidden) @ weights["taps.weight"].T
    gate, y = (x @ weights["in.weight"].T).chunk(2, -1)
    size = 2 * len(filters)
    spectrum = torch.fft.rfft(y, size, 0) * torch.fft.rfft(filters, size, 0)
    return gate * torch.fft.irfft(spectrum, size, 0)[: len(x)]


def spatial_gate(weights: Weights, x: Tensor) -> Tensor:
    """Earlier tokens with a learned weight for each pair of places."""
    u, v = (x @ weights["in.weight"].T).chunk(2, -1)
    return u * (weights["places"].view(64, 64)[: len(x), : len(x)].tril() @ v)


def sigmoid_attention(weights: Weights, x: Tensor) -> Tensor:
    """Attention whose weights need not add up to 1."""
    q, k, v = _heads(x, weights["in.weight"], 3 * WIDTH).chunk(3, -1)
    place = torch.arange(len(x), dtype=x.dtype)
    slopes = 2.0 ** -torch.tensor([2, 4, 6, 8], dtype=x.dtype)[:, None, None]
    scores = torch.einsum("thd,shd->hts", q, k) * WIDTH**-0.5 + slopes * (place - place[:, None])
    return torch.einsum("hts,shd->thd", torch.sigmoid(scores - math.log(64)).tril(), v).flatten(1)


MODELS: Mapping[str, Layers] = {
    "joined": [joined] * 2,
    "blocks": [moba, nsa],
    "filters": [hyena, spatial_gate, sigmoid_attention],
}


def _logits(layers: Layers, weights: Weights, tokens: Tensor) -> Tensor:
    """What a model of such layers says of one sequence."""
    x = weights["embed.weight"][tokens]
    for number, attend in enumerate(layers):
        prefix = f"layers.{number}."
        own = {path.removeprefix(prefix): each for path, each in weights.items() if path.startswith(prefix)}
        x = x + attend(own, _normed(x, own["norm.weight"])) @ own["out.weight"].T
    return x @ weights["head.weight"].T


@pytest.fixture(scope="module", params=MODELS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    name: str = request.param
    return name, build(SPECS / f"{name}.arch", name, tmp_path_factory.mktemp(name))


@pytest.mark.parametrize("pieces", [(TOKENS,), (5, 1, 1, 4, 1, 1, 1)], ids=["whole", "cached"])
def test_is_the_formula(built: Built, pieces: tuple[int, ...]) -> None:
    """In float64, for all tokens at once and through the cache."""
    name, package = built
    model = package.Model(dtype=torch.float64)
    scramble(model)
    weights = dict(stored_tensors(model))
    tokens = torch.randint(50, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    cache = model.new_cache(2, TOKENS) if len(pieces) > 1 else None
    with torch.no_grad():
        found = torch.cat([model(piece, cache=cache) for piece in torch.split(tokens, pieces, 1)], 1)
    for logits, sequence in zip(found, tokens, strict=True):
        assert distance(logits, _logits(MODELS[name], weights, sequence)) < 1e-6  # sines are float32
