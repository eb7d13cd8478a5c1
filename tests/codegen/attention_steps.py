"""Attention of one new token: small models, keys and values that are kept, and what it must be."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from archc.ir.ops.attention import Causal, Chunked, Mask, Sliding, attend
from tests.support import distance, scramble

PADDING = torch.ones(3, 7, dtype=torch.bool)
PADDING[1, :3] = PADDING[2, 5:] = False


def module_beside(model: Any, name: str) -> Any:
    """Another module of a model's package."""
    return sys.modules[type(model).__module__.rpartition(".")[0] + f".{name}"]


# query heads, key heads, their width, the values' width
SHAPES = [(4, 4, 16, 16), (6, 2, 12, 20), (8, 1, 64, 64), (5, 1, 80, 16)]
MASKS = {"causal": Causal(), "sliding(7)": Sliding(7), "chunked(7)": Chunked(7)}


def spec_of_step(
    heads: int, kv_heads: int, head_dim: int, value_dim: int, mask: str = "causal", scores: str = ""
) -> str:
    """A model of one attention that keeps its keys and values."""
    mask += f", {scores}" if scores else ""
    return f"""
    arch A(d = 32) {{
      forward(tokens: [B, T]) {{
        x = embedding(tokens, 50, d) as wte
        q = split_heads(linear(x, {heads * head_dim}) as q_proj, {heads})
        k = split_heads(silu(linear(x, {kv_heads * head_dim}) as k_proj), {kv_heads})
        v = split_heads(silu(linear(x, {kv_heads * value_dim}) as v_proj), {kv_heads})
        o = merge_heads(attention(q, k, v, mask = {mask}))
        return linear(x + linear(o, d) as o_proj, 50) as head
      }}
    }}
    model a = A()
    """


# What adds to the scores of a step: a bias that attention is given, or one that its kernel makes.
BIASES = {
    "relative": """t = parameter([8, 6], init = normal(std = 1)) as table
        b = relative_bias(positions(x), key_positions(x), t, bidirectional = false, distance = 12)""",
    "linear": "b = alibi_bias(positions(x), key_positions(x), heads = 6)",
    "given": """t = parameter([8, 6], init = normal(std = 1)) as table
        b = 2 * relative_bias(positions(x), key_positions(x), t, bidirectional = false, distance = 12)""",
    "for all keys": "query, _ = pairs(x)\n        b = sin(upcast(query))",
    "of keys": "b = key_bias(linear(x, 6) as b)",
    "for all heads": "query, key = pairs(x)\n        b = -0.3 * absolute(upcast(query - key))",
}


def logits_in_steps(model: Any, tokens: Tensor, padding: Tensor | None) -> Tensor:
    """Of all tokens after the first seven, one by one."""
    cache = model.new_cache(len(tokens), tokens.shape[1])
    model(tokens[:, :7], cache=cache, padding=padding)
    cache.start_steps()
    return torch.cat([model(token, cache=cache) for token in tokens[:, 7:].split(1, 1)], 1)


def new_token(heads: int, kv_heads: int, head_dim: int, value_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of one new token of two sequences; the query is not contiguous."""
    q = torch.randn(2, 1, heads, head_dim + 3)[..., :head_dim]
    return q, torch.randn(2, 1, kv_heads, head_dim), torch.randn(2, 1, kv_heads, value_dim)


def attention_of(
    q: Tensor, keys: Tensor, values: Tensor, positions: Tensor, seen: Tensor, mask: Mask, **given: Any
) -> Tensor:
    """In float64, of one query of each sequence; seen: int64 [1 or B, S], where keys stand."""
    scale = q.shape[-1] ** -0.5
    wide = (x.double() for x in (q, keys, values))
    return attend(*wide, positions, seen, mask=mask, **{"scale": scale, **given})


def places_of(filled: int, padded: bool) -> tuple[Tensor, Tensor]:
    """Positions of the next tokens, and of those in the cache and them, with padding anywhere."""
    places = torch.full((2 if padded else 1, 40), -1)
    for row in places:
        real = torch.ones(filled, dtype=torch.bool)
        if padded:
            real = torch.rand(filled) < 0.6
        row[:filled] = torch.where(real, real.cumsum(0) - 1, -1)
    positions = (places >= 0).sum(1, keepdim=True)
    places[:, filled : filled + 1] = positions
    return positions, places


def exact_and_fused(package: ModuleType, folder: Path) -> tuple[Any, Any]:
    """A package's reference in float64, and its model in float32 with the same weights."""
    exact = package.Reference(dtype=torch.float64)
    scramble(exact)
    exact.save_pretrained(folder)
    return exact, package.Model.from_pretrained(folder, dtype=torch.float32)


def check_steps(package: ModuleType, folder: Path, kernel: str) -> None:
    """Compare steps by a kernel, keys shared out or not, padded or not, with the reference's."""
    exact, model = exact_and_fused(package, folder)
    kernels = module_beside(model, "kernels")
    assert any(name.startswith(kernel) and name.endswith("_step") for name in vars(kernels))
    tokens = torch.randint(0, 50, (3, 13))
    for shares, padding in ((1, None), (4, PADDING)):
        kernels._shares = lambda *_, shares=shares: shares
        found, truth = (logits_in_steps(each, tokens, padding) for each in (model, exact))
        assert distance(found, truth) < 1e-5, (shares, padding is not None)
