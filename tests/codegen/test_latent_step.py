"""One token's attention over a latent: its keys are its values."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch

from archc.ir.ops.attention import Causal, Sliding
from tests.codegen.attention_steps import (
    BIASES,
    attention_of,
    check_steps,
    new_token,
    places_of,
)
from tests.codegen.interpreter import interpreted
from tests.support import build, distance, few

# query heads, values of the latent, of the rotary key beside it
LATENTS = [(6, 20, 5), (40, 16, 16), (64, 512, 64)]


def _latent_spec(heads: int, rank: int, rotary: int, window: int) -> str:
    """A model of one attention over a latent: its keys and values are as many for each head."""
    mask = f"sliding({window})" if window else "causal"
    return f"""
    arch A(d = 32) {{
      forward(tokens: [B, T]) {{
        x = embedding(tokens, 50, d) as wte
        c = silu(linear(x, {rank}) as kv_down)
        k_pe = silu(split_heads(linear(x, {rotary}) as k_proj, 1))
        k, v = split(split_heads(linear(c, {2 * rank * heads}) as kv_up, {heads}), 2)
        q = split_heads(linear(x, {heads * (rank + rotary)}) as q_proj, {heads})
        k = concat(k, expand_heads(k_pe, {heads}))
        o = merge_heads(attention(q, k, v, mask = {mask}))
        return linear(x + linear(o, d) as o_proj, 50) as head
      }}
    }}
    model a = A()
    """


@pytest.mark.parametrize("window", few([0, 7], 1))
@pytest.mark.parametrize("sizes", LATENTS, ids=str)
@interpreted
def test_latent_attention_of_a_step(sizes: tuple[int, int, int], window: int, tmp_path: Path) -> None:
    """The first columns of what is kept are its values, for all query heads: up to 32 in a program."""
    heads, rank, rotary = sizes
    kernels = sys.modules[build(_latent_spec(*sizes, window), "a", tmp_path).Model.__module__].kernels
    cases = itertools.product((0, 1, 33), (1, 4), (False, True))
    for filled, shares, padded in [(0, 4, True), (33, 1, False), (33, 4, True)] if rank > 256 else cases:
        kernels._shares = lambda *_, shares=shares: shares
        q, k, _ = new_token(heads, 1, rank + rotary, rank)
        keys = torch.full((2, 40, 1, rank + rotary), float("nan"))
        keys[:, :filled].normal_()
        positions, places = places_of(filled, padded)
        state = (torch.tensor([filled]), *([positions] if window else []), places)
        o = kernels._latent_attention_step(*torch.split(q, (rank, rotary), -1), k, keys, *state, padded)
        assert torch.equal(keys[:, filled : filled + 1], k)
        assert keys[:, filled + 1 :].isnan().all()
        known = keys[:, : filled + 1]
        mask = Sliding(window) if window else Causal()
        truth = attention_of(q, known, known[..., :rank], positions, places[:, : filled + 1], mask)
        assert distance(o, truth) < 3e-6, (filled, shares, padded)


@interpreted
def test_large_tiles_of_a_latent(tmp_path: Path) -> None:
    """Where there is room for them, in 16 bits: 64 keys, or 64 heads of many sequences; the same values."""
    heads, rank, rotary = 64, 512, 64
    kernels = sys.modules[build(_latent_spec(heads, rank, rotary, 0), "a", tmp_path).Model.__module__].kernels
    q, k, _ = (x.bfloat16() for x in new_token(heads, 1, rank + rotary, rank))
    keys = torch.randn(2, 80, 1, rank + rotary).bfloat16()
    positions, places = torch.tensor([[70]]), torch.arange(80)[None]
    found = {}
    for room, (processors, shares) in itertools.product((0, 1 << 20), ((1, 1), (132, 4))):
        kernels._room, kernels._shares = (lambda _, room=room: room), (lambda *_, shares=shares: shares)
        kernels._processors = lambda _, processors=processors: processors
        state = (torch.tensor([70]), places)
        split = torch.split(q, (rank, rotary), -1)
        found[room, processors] = kernels._latent_attention_step(*split, k, keys.clone(), *state, False)
    keys[:, 70:71] = k
    known = keys[:, :71].double()
    truth = attention_of(q.double(), known, known[..., :rank], positions, places[:, :71], Causal())
    assert all(distance(o, truth) < 4e-3 for o in found.values())


@pytest.mark.parametrize(("heads", "bias"), few([(6, ""), (40, "given"), (6, "relative"), (40, "linear")], 2))
@interpreted
def test_a_step_over_keys_that_are_values(bias: str, heads: int, tmp_path: Path) -> None:
    """A latent without a rotary key beside it, for up to 32 heads in a program."""
    made = (
        BIASES[bias].replace("[8, 6]", f"[8, {heads}]").replace("heads = 6", f"heads = {heads}")
        if bias
        else ""
    )
    scores = "causal, bias = b" if bias else "sliding(7)"
    spec = f"""
    arch A(d = 32) {{
      forward(tokens: [B, T]) {{
        x = embedding(tokens, 50, d) as wte
        c = silu(linear(x, 20) as kv_down)
        k, v = split(split_heads(linear(c, {2 * 20 * heads}) as kv_up, {heads}), 2)
        q = split_heads(linear(x, {heads * 20}) as q_proj, {heads})
        {made}
        o = merge_heads(attention(q, k, v, mask = {scores}))
        return linear(x + linear(o, d) as o_proj, 50) as head
      }}
    }}
    model a = A()
    """
    check_steps(build(spec, "a", tmp_path), tmp_path / "checkpoint", "_shared")
