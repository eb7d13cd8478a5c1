"""One token's attention: keys and values that lie anywhere, under masks, with biases."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch

from archc.ir.ops.attention import Full, Sliding
from tests.codegen.attention_steps import (
    BIASES,
    MASKS,
    SHAPES,
    attention_of,
    check_steps,
    new_token,
    places_of,
    spec_of_step,
)
from tests.codegen.interpreter import interpreted
from tests.support import build, distance, few


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", few([(shape,) for shape in SHAPES], 2), ids=str)
@interpreted
def test_attention_of_a_step(shape: tuple[int, int, int, int], mask: str, tmp_path: Path) -> None:
    """Every length, share and kind of padding; the new token is stored."""
    kernels = sys.modules[build(spec_of_step(*shape, mask), "a", tmp_path).Model.__module__].kernels
    for filled, shares, padded in itertools.product((0, 1, 33), (1, 4), (False, True)):
        kernels._shares = lambda *_, shares=shares: shares
        q, k, v = new_token(*shape)
        keys, values = (torch.full((2, 40, *x.shape[2:]), float("nan")) for x in (k, v))
        for store in (keys, values):
            store[:, :filled].normal_()
        positions, places = places_of(filled, padded)
        state = (torch.tensor([filled]), *([] if mask == "causal" else [positions]), places)
        o = kernels._attention_step(q, k, v, keys, values, *state, padded)
        assert torch.equal(keys[:, filled : filled + 1], k)
        assert torch.equal(values[:, filled : filled + 1], v)
        assert keys[:, filled + 1 :].isnan().all()
        truth = attention_of(
            q, keys[:, : filled + 1], values[:, : filled + 1], positions, places[:, : filled + 1], MASKS[mask]
        )
        assert distance(o, truth) < 3e-6, (filled, shares, padded)


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.parametrize("length", [7, 9])
@pytest.mark.parametrize("mask", few(["sliding(7)", "chunked(7)"], 1))
@interpreted
def test_a_step_in_a_ring(shape: tuple[int, int, int, int], length: int, mask: str, tmp_path: Path) -> None:
    """Each sequence has places of its own, at positions modulo the ring's length: the window's, or longer."""
    kernels = sys.modules[build(spec_of_step(*shape, mask), "a", tmp_path).Model.__module__].kernels
    for before, shares in itertools.product(((0, 3), (6, 7), (8, 33)), (1, 2)):
        kernels._shares = lambda *_, shares=shares: shares
        q, k, v = new_token(*shape)
        positions = torch.tensor(before)[:, None]
        keys, values = (torch.full((2, length, *x.shape[2:]), float("nan")) for x in (k, v))
        for row, count in enumerate(before):
            for store in (keys, values):
                store[row, : min(count, length)].normal_()
        state = (torch.tensor([35]), positions, torch.full((2, 40), -1))
        o = kernels._attention_step(q, k, v, keys, values, *state, True)
        held = (positions - (positions - torch.arange(length)) % length).clamp(min=-1)
        assert torch.equal(keys[torch.arange(2), positions[:, 0] % length], k[:, 0])
        assert torch.equal(values.isnan().flatten(2).all(-1), held < 0)
        truth = attention_of(q, keys.nan_to_num(), values.nan_to_num(), positions, held, MASKS[mask])
        assert distance(o, truth) < 3e-6, (before, shares)


@pytest.mark.parametrize("softcap", [None, 2.5])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("shape", SHAPES[1:3], ids=str)
@interpreted
def test_a_step_with_a_softcap_and_sinks(
    shape: tuple[int, int, int, int], sinks: bool, softcap: float | None, tmp_path: Path
) -> None:
    """A sink is counted once, however many programs share the keys."""
    heads = shape[0]
    scores = f"softcap = {softcap}" if softcap else "softcap = none"
    scores += f", sinks = parameter([{heads}]) as sinks" if sinks else ""
    kernels = sys.modules[
        build(spec_of_step(*shape, "sliding(7)", scores), "a", tmp_path).Model.__module__
    ].kernels
    for filled, shares in itertools.product((0, 33), (1, 4)):
        kernels._shares = lambda *_, shares=shares: shares
        q, k, v = new_token(*shape)
        q = 3 * q  # scores that the cap bends
        keys, values = (torch.randn(2, 40, *x.shape[2:]) for x in (k, v))
        positions, places = places_of(filled, True)
        sink = [2 * torch.randn(heads)] if sinks else []
        state = (torch.tensor([filled]), positions, places)
        o = kernels._attention_step(q, k, v, keys, values, *state, True, *sink)
        known = (keys[:, : filled + 1], values[:, : filled + 1])
        given = {"sinks": sink[0].double() if sinks else None, "softcap": softcap}
        truth = attention_of(q, *known, positions, places[:, : filled + 1], Sliding(7), **given)
        assert distance(o, truth) < 3e-6, (filled, shares)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("bias", few(BIASES, 3))
@interpreted
def test_a_step_with_a_bias(bias: str, mask: str, tmp_path: Path) -> None:
    """Whole models: the same logits as in float64, where kept keys lie anywhere, padded or in rings."""
    spec = spec_of_step(6, 2, 12, 20, mask, "bias = b").replace(
        "o = merge", f"{BIASES[bias]}\n        o = merge"
    )
    check_steps(build(spec, "a", tmp_path), tmp_path / "checkpoint", "")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@interpreted
def test_a_step_over_another_sequence(shape: tuple[int, int, int, int], tmp_path: Path) -> None:
    """Keys and values as they are kept, side by side in rows of one tensor, or each for itself."""
    heads, kv_heads, head_dim, value_dim = shape
    asked = f"linear(x, {heads * head_dim}) as q_proj"
    changes = {
        "tokens: [B, T]": "tokens: [B, T], decoder_tokens: [B, U] = 0",
        "        q = split": "        y = embedding(decoder_tokens, 50, d) as wde\n        q = split",
        asked: asked.replace("(x,", "(y,"),
        "linear(x + ": "linear(y + ",
    }
    spec = spec_of_step(*shape, "full")
    for old, new in changes.items():
        spec = spec.replace(old, new)
    kernels = sys.modules[build(spec, "a", tmp_path).Model.__module__].kernels
    for length, shares, (padded, packed) in itertools.product(
        (1, 33), (1, 4), ((False, True), (True, False), (True, True))
    ):
        kernels._shares = lambda *_, shares=shares: shares
        q, _, _ = new_token(*shape)
        wide = torch.randn(2, length, kv_heads * (head_dim + value_dim))
        parts = wide.split([kv_heads * head_dim, kv_heads * value_dim], -1)
        k, v = (x.unflatten(-1, (kv_heads, -1)) for x in parts)
        k, v = (k, v) if packed else (k.contiguous(), v.contiguous())
        places = torch.arange(length)[None]
        if padded:
            places = torch.where(torch.rand(2, length) < 0.6, places, -1)
            places[0, -1] = length - 1
        o = kernels._attention_step(q, k, v, places, padded)
        truth = attention_of(q, k, v, torch.zeros(2, 1, dtype=torch.int64), places, Full())
        some = (places >= 0).any(1).expand(2)
        assert o.isfinite().all()
        assert distance(o[some], truth[some]) < 3e-6, (length, shares, padded, packed)
