"""Attention over chosen keys: which are chosen, by hand, and that no others are read."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archc.ir.ops.attention import Causal, Full, Mask, attend
from archc.ir.ops.attention_bias import distance_bias
from archc.ir.ops.key_choice import select_keys
from tests.codegen.attention_steps import exact_and_fused, logits_in_steps
from tests.codegen.fused_ops import changed_module
from tests.codegen.interpreter import interpreted
from tests.codegen.test_pieces import SPEC
from tests.support import ROOT, build, compile_model, distance, scramble

TOKENS, COUNT = 9, 4
FAMILIES = ROOT / "tests" / "interop" / "families"


@pytest.mark.parametrize("mask", [Causal(), Full()], ids=str)
def test_best_keys_come_first_and_padding_never(mask: Mask) -> None:
    q, k = torch.randn(2, TOKENS, 3, 8), torch.randn(2, TOKENS, 1, 8)
    weights = torch.rand(2, TOKENS, 3)
    real = torch.ones(2, TOKENS).bool()
    real[1, :5] = False
    keys = torch.where(real, real.cumsum(1) - 1, -1)
    chosen = select_keys(q, k, weights, keys.clamp(min=0), keys, mask=mask, count=COUNT)
    for row, token in real.nonzero().tolist():
        seen = [s for s in range(TOKENS) if real[row, s] and (s <= token or not mask.causal)]
        scores = {s: float((weights[row, token] * (q[row, token] @ k[row, s, 0]).relu()).sum()) for s in seen}
        best = sorted(seen, key=lambda s: (-scores[s], s))[:COUNT]
        assert chosen[row, token].tolist() == [*best, *[-1] * (COUNT - len(best))]


CHOOSING = """
arch Choosing(d = 24) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 50, d) as wte
    q, k = split_heads(linear(x, 5 * 12) as q, 5), split_heads(linear(x, 12) as k, 1)
    among = chosen_keys(q, k, linear(x, 5) as weights, 4, mask = MASK)
    return linear(merge_heads(attention(q, k, k, mask = MASK, among = among)), 50) as head
  }
}
model choosing = Choosing()
"""


def test_a_package_for_a_cpu_reads_the_chosen_keys_alone_too(tmp_path: Path) -> None:
    model = build(CHOOSING.replace("MASK", "causal"), "choosing", tmp_path, target="cpu").Model()
    scramble(model)
    tokens = torch.randint(50, (2, TOKENS))
    with torch.no_grad():
        assert distance(logits_in_steps(model, tokens, None), model(tokens)[:, 7:]) < 1e-5


@pytest.mark.parametrize("mask", [Causal(), Full()], ids=str)
@interpreted
def test_the_kernel_chooses_as_the_reference_does(mask: Mask) -> None:
    """Keys that score alike, or 0 by weights of either sign, padding, later keys, and too few keys."""
    text = CHOOSING.replace("MASK", "causal" if mask.causal else "full")
    kernels = build(text, "choosing", Path(mkdtemp())).kernels
    for keys in (3, 70):
        q, k = torch.randn(2, 1, 5, 12), torch.randn(2, keys, 1, 12)
        k[:, keys // 2 :] = k[:, : keys - keys // 2].clone()
        q[1, :, 1:] = 0
        weights = torch.randn(2, 1, 5)
        weights[1] = -1
        places = torch.arange(keys).repeat(2, 1)
        places[1, :2] = -1
        given = q, k, weights, torch.tensor([[keys - 2]]), places
        chosen = kernels._select_keys_step(*given)
        assert torch.equal(chosen, select_keys(*given, mask=mask, count=COUNT))


def _chosen(keys: int, last: int) -> Tensor:
    """Places of keys for two sequences: with the new token's and without, none, and a later one."""
    among = torch.stack([torch.randperm(last)[:COUNT_OF_SPEC] for _ in range(2)])
    among[0, 3], among[1, 5:7], among[1, 0] = last, -1, keys - 1
    return among[:, None]


COUNT_OF_SPEC, KEYS = 9, 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shares", [1, 2])
@interpreted
def test_one_token_reads_chosen_keys_in_the_cache(shares: int, dtype: torch.dtype) -> None:
    """Keys and values apart, with sinks; the rest of the cache is no number."""
    package = build(SPEC, "chosen_with_sinks", Path(mkdtemp()))
    kernels = changed_module(package.kernels, "tile = ", "tile = 4 #")
    kernels._shares = lambda *_: shares
    last = 30
    q, k, v = (torch.randn(2, 1, 6, width).to(dtype) for width in (8, 8, 4))
    keys, values = (torch.randn(2, KEYS, 6, width).to(dtype) for width in (8, 4))
    among, sinks = _chosen(KEYS, last), torch.randn(6).to(dtype)
    whole = [torch.cat([x[:, :last], new], 1).double() for x, new in ((keys, k), (values, v))]
    for store in (keys, values):
        _forget(store, among, last)
    places = torch.arange(KEYS).repeat(2, 1)
    places[1, among[1, 0, 2]] = -1  # padding among the chosen
    filled = torch.tensor([last])
    found = kernels._attention_step(q, k, v, keys, values, filled, places, True, sinks, among)
    seen = among.masked_fill(among > last, -1)
    given = q.double(), *whole, filled[None], places[:, : last + 1], None, sinks.double(), seen
    wanted = attend(*given, mask=Causal(), scale=8**-0.5)
    assert distance(found, wanted) < (1e-6 if dtype is torch.float32 else 8e-3)
    assert torch.equal(keys[:, last], k[:, 0])
    assert torch.equal(values[:, last], v[:, 0])


@pytest.mark.parametrize("shares", [1, 2])
@interpreted
def test_one_token_reads_chosen_keys_of_a_latent(shares: int) -> None:
    """Whose first columns are the values, so that each is read once."""
    kernels = build(FAMILIES / "deepseek_sparse.arch", "deepseek_v32", Path(mkdtemp())).kernels
    kernels._shares = lambda *_: shares
    last, scale = 30, 20**-0.5
    q_v, q_rest, k = torch.randn(2, 1, 3, 16), torch.randn(2, 1, 3, 8), torch.randn(2, 1, 1, 24)
    keys = torch.randn(2, KEYS, 1, 24)
    among = _chosen(KEYS, last)[:, :, :5].contiguous()
    whole = torch.cat([keys[:, :last], k], 1).double()
    _forget(keys, among, last)
    places, filled = torch.arange(KEYS)[None], torch.tensor([last])
    found = kernels._latent_attention_step(q_v, q_rest, k, keys, filled, places, False, among)
    q, seen = torch.cat([q_v, q_rest], -1).double(), among.masked_fill(among > last, -1)
    given = q, whole, whole[..., :16], filled[None], places[:, : last + 1], None, None, seen
    assert distance(found, attend(*given, mask=Causal(), scale=scale)) < 1e-6
    assert torch.equal(keys[:, last], k[:, 0])


@interpreted
def test_the_first_token_of_a_sequence_chooses_itself() -> None:
    kernels = build(SPEC, "chosen_with_sinks", Path(mkdtemp())).kernels
    q, k, v = (torch.randn(1, 1, 6, width) for width in (8, 8, 4))
    keys, values = (torch.full((1, KEYS, 6, width), torch.nan) for width in (8, 4))
    among = torch.tensor([[[0, *[-1] * (COUNT_OF_SPEC - 1)]]])
    places, filled = torch.arange(KEYS)[None], torch.tensor([0])
    sinks = torch.full((6,), -torch.inf)
    found = kernels._attention_step(q, k, v, keys, values, filled, places, False, sinks, among)
    torch.testing.assert_close(found, v)
    assert torch.equal(keys[:, 0], k[:, 0])


def _forget(store: Tensor, among: Tensor, last: int) -> None:
    """Leave in a cache nothing but what is chosen and stands before the new token."""
    for row, places in zip(store, among[:, 0], strict=True):
        kept = [place for place in places.tolist() if 0 <= place < last]
        row[[place for place in range(len(row)) if place not in kept]] = torch.nan


def test_attention_sees_the_chosen_keys_alone() -> None:
    q, k, v = (torch.randn(1, TOKENS, heads, 8, dtype=torch.float64) for heads in (4, 2, 2))
    positions = torch.arange(TOKENS)[None]
    among = torch.tensor([[[0, -1], [0, 1], [1, 2], [3, 0], *[[2, 4]] * 5]])
    o = attend(q, k, v, positions, positions, among=among, mask=Causal(), scale=1.0)
    for token, places in enumerate(among[0].tolist()):
        taken = torch.tensor([place for place in places if place >= 0])
        scores = torch.einsum("kgd,skd->kgs", q[0, token].view(2, 2, 8), k[0, taken])
        wanted = torch.einsum("kgs,skd->kgd", scores.softmax(-1), v[0, taken])
        torch.testing.assert_close(o[0, token], wanted.flatten(0, 1))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, Any]:
    """Kernels, and the span of one token after 29 others."""
    package = build(SPEC, "chosen_with_sinks", tmp_path_factory.mktemp("chosen"))
    return package.kernels, package.runtime.Span(torch.tensor([[29]]), torch.arange(30)[None], False)


def test_one_token_reads_no_other_keys(kept: tuple[ModuleType, Any]) -> None:
    """What the cache holds of keys that a token has not chosen may be anything."""
    kernels, span = kept
    k, v = (torch.randn(2, 30, 6, width, dtype=torch.float64, requires_grad=True) for width in (8, 4))
    among = torch.stack([torch.randperm(30)[:9] for _ in range(2)])[:, None]
    sinks = torch.zeros(6, dtype=torch.float64)
    o = kernels.attention(torch.randn(2, 1, 6, 8, dtype=torch.float64), k, v, span, sinks, among)
    o.sum().backward()
    assert [_read(x) for x in (k, v)] == [[sorted(row[0].tolist()) for row in among]] * 2


PASSED_ON = """
arch PassedOn(d = 24) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 50, d) as wte
    among = none
    for i in 0..4 as layers {
      q, k, v = split(split_heads(linear(x, 3 * d) as qkv, 3), 3)
      place = unsqueeze(positions(x))
      CHOICE
      x = x + linear(merge_heads(attention(q, k, v, mask = causal, among = among)), d) as o
    }
    return linear(x, 50) as head
  }
}
model passed_on = PassedOn()
"""
BEST = "chosen_keys(q, split_heads(linear(x, 8) as key, 1), linear(x, 3) as weights, 4)"
DOUBLES = "concat(maximum(place - 2, 0), place, maximum(place - 3, 0), maximum(place - 3, 0))"


@pytest.mark.parametrize(
    ("choice", "sorts"),  # in bodies of loops
    [
        (f"if i == 0 {{ among = {BEST} }}", 0),
        (f"among = {DOUBLES}", 2),
        (f"if i == 0 {{ among = {BEST} }}\n      if i == 2 {{ among = {DOUBLES} }}", 2),
    ],
    ids=["chosen", "computed", "either"],
)
@interpreted
def test_a_key_that_is_chosen_twice_counts_once(choice: str, sorts: int) -> None:
    """Places that arithmetic makes are sorted, those of a choice never."""
    spec = PASSED_ON.replace("CHOICE", choice)
    ops = [node.op.name for part in compile_model(spec, "passed_on").fused.walk() for node in part.nodes()]
    assert ops.count("each_once") == sorts
    package = build(spec, "passed_on", Path(mkdtemp()))
    exact, model = exact_and_fused(package, Path(mkdtemp()))
    tokens = torch.randint(50, (2, 11))
    assert distance(logits_in_steps(model, tokens, None), exact(tokens)[:, 7:]) < 1e-6


BIASED = """
arch Biased(d = 24) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, 30, d) as wte
    q, k, v = split(split_heads(linear(x, 3 * d) as qkv, 3), 3)
    key = split_heads(linear(x, 8) as k, 1)
    among = chosen_keys(rotate(q, rope(100)), rotate(key, rope(100)), linear(x, 3) as w, 3)
    table = parameter([8, 3], init = normal(1)) as table
    bias = relative_bias(positions(x), key_positions(x), table, bidirectional = false, distance = 20)
    return linear(merge_heads(attention(q, k, v, mask = causal, among = among, bias = bias)), 30) as head
  }
}
model biased = Biased()
"""


def test_a_chosen_key_has_its_own_bias(tmp_path: Path) -> None:
    model = build(BIASED, "biased", tmp_path).Model(dtype=torch.float64)
    scramble(model)
    tokens = torch.randint(30, (2, 9))
    cache = model.new_cache(2, 9)
    steps = [model(token, cache=cache) for token in tokens.split(1, 1)]
    torch.testing.assert_close(torch.cat(steps, 1), model(tokens))


def _read(x: Tensor) -> list[list[int]]:
    """The tokens of each sequence whose values have a gradient."""
    assert x.grad is not None
    return [row.nonzero().flatten().tolist() for row in x.grad.abs().sum((2, 3))]


class _Ops(nn.Module):
    """Which keys each token of x [B, T, 6] sees, and a bias that it makes of them."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(x.shape[1])[None]
        q, k = x.unflatten(2, (3, 2)), x[:, :, None, :2]
        chosen = select_keys(q, k, x[..., :3], positions, positions, mask=Causal(), count=COUNT)
        return chosen, distance_bias(positions, positions, q)


def test_exported_for_any_number_of_tokens() -> None:
    sizes = {0: torch.export.Dim("batch", max=9), 1: torch.export.Dim("length", max=99)}
    x = torch.randn(2, 7, 6)
    exported = torch.export.export(_Ops(), (x,), dynamic_shapes={"x": sizes}).module()
    for found, wanted in zip(exported(x[:1, :3]), _Ops()(x[:1, :3]), strict=True):
        assert torch.equal(found, wanted)
