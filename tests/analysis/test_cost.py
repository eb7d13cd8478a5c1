"""What a model costs, held to what PyTorch counts and allocates."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from archc.analysis.cache import cache_size
from archc.analysis.facts import facts
from archc.analysis.flops import count_flops
from archc.analysis.kernels import Shape, kernels, node_flops
from archc.ir.graph import Graph
from archc.ir.op import OPS
from archc.ir.ops.attention import Causal, Chunked, Full, Mask, Sliding
from archc.ir.program import given_inputs
from tests.analysis.models import MODELS, TINY, built, compiled
from tests.support import compile_model, few

BATCH, LENGTH = 3, 24
MASKS = (Causal(), Full(), Sliding(6), Sliding(50), Chunked(6), Chunked(50))


@pytest.mark.parametrize("model", few(MODELS, 24))
def test_the_cache_is_what_new_cache_allocates(model: str) -> None:
    module = built(model).Model(device="meta", dtype=torch.bfloat16)
    size = cache_size(compiled(model).reference, BATCH, LENGTH, element=2)
    cache = module.new_cache(BATCH, LENGTH)
    assert size.bytes == _allocated(cache.layers) + _allocated(getattr(cache, "states", []))
    assert size.bytes_per_token == _allocated(module.new_cache(1, 1).layers)


def test_what_a_token_adds_to_the_cache() -> None:
    """Of two layers with 2 x 24 values in float32, one for the last tokens alone; and a state."""
    text = """arch Wide(d = 24) {
      forward(tokens: [B, T]) {
        x = embedding(tokens, 50, d) as wte
        for i in 0..2 as layers {
          q, k, v = split(upcast(linear(x, 3 * d) as qkv), 3)
          k = split_heads(exp(k), 3)
          o = attention(split_heads(q, 3), k, split_heads(v, 3), mask = [causal, sliding(5)][i])
          x = x + cast_like(merge_heads(o), x)
        }
        y = split_heads(x, 3)
        return linear(merge_heads(linear_attention(y, y, y)), 50) as head
      }
    }
    model wide = Wide()"""
    compilation = compile_model(text, "wide")
    graph = compilation.reference
    kept = [remark.text for remark in compilation.report.remarks if "keeps" in remark.text]
    assert [text.partition("192 ")[2] for text in kept] == [
        "bytes a token",
        "bytes a token (0 once rings are full)",
    ]
    assert (
        dict(facts(graph))["cache"]
        == "384 bytes a token in bfloat16, 192 once its rings are full, and 768 of states"
    )
    size = cache_size(graph, 1, 100, 2)
    assert (size.bytes_per_token, size.lasting_bytes_per_token, size.state_bytes) == (384, 192, 768)
    assert size.bytes == 100 * 192 + 5 * 192 + 768


def _allocated(layers: Any) -> int:
    return sum(store.numel() * store.element_size() for layer in layers for store in layer.values())


@pytest.mark.parametrize("model", TINY)
def test_flops_are_those_that_torch_counts(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unfused module computes the scores of all keys, those that a query does not see as well.

    What changes and reads states it computes element by element.  Experts have room for all tokens here.
    """
    torch.manual_seed(0)
    monkeypatch.setattr(built(model).reference, "within", lambda weights, *_: weights, raising=False)
    module = built(model).Reference(dtype=torch.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*(torch.randint(50, (1, LENGTH)) for _ in given_inputs(compiled(model).reference)))
    flops = count_flops(compiled(model).reference, LENGTH)
    seen, all_keys = _attention(compiled(model).reference)
    assert counter.get_total_flops() == flops.weights * LENGTH + all_keys
    assert seen < all_keys or not all_keys
    assert flops.attention == (seen + _recurrences(compiled(model).reference)) // LENGTH


def _attention(root: Graph) -> tuple[int, int]:
    """FLOPs of attention over the keys that are seen, and over all."""
    seen = all_keys = 0
    for graph, times in root.runs():
        for node in graph.nodes():
            if node.op.name == "attend":
                mask: Mask = node.attributes["mask"]
                flops = times * node_flops(graph, node, defaultdict(lambda: LENGTH, B=1)).matrix
                seen += flops
                all_keys += flops // mask.pairs(LENGTH, LENGTH) * LENGTH**2
    return seen, all_keys


def _recurrences(root: Graph) -> int:
    """FLOPs of recurrences: of each token's decay, and of two products of the state to store and to read it.

    The delta rule has a third, with what it finds; so has each of the two of `erase`.
    """
    flops = 0
    for graph, times in root.runs():
        for node in graph.nodes():
            if node.op.name == "recur":
                _, k, v, _, decay, beta, erase, *_ = node.inputs
                elements = LENGTH * math.prod(graph.type(v).shape[2:]) * graph.type(k).shape[3]
                products = 2 + (beta is not None) + 2 * (erase is not None)
                flops += times * elements * (2 * products + (decay is not None))
    return flops


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 20), (7, 20), (20, 20), (3, 5)])
@pytest.mark.parametrize(
    "mask", [Causal(), Full(), Sliding(6), Sliding(50), Chunked(6), Chunked(50)], ids=str
)
def test_masks_count_what_they_let_see(mask: Mask, queries: int, keys: int) -> None:
    """Against the reference: each key's value is a direction of its own."""
    positions, key_positions = torch.arange(keys)[None, keys - queries :], torch.arange(keys)[None]
    q, k = (torch.zeros(1, length, 1, 1, dtype=torch.float64) for length in (queries, keys))
    v = torch.eye(keys, dtype=torch.float64)[None, :, None]
    seen = OPS["attend"].reference(q, k, v, positions, key_positions, mask=mask, scale=1.0)[0, :, 0] > 0
    assert mask.pairs(queries, keys) == int(seen.sum())
    assert mask.span(queries, keys) == int(seen.any(0).sum())


def test_what_is_kept_of_an_encoder() -> None:
    """By hand: its output, and keys and values of it in each of six decoder layers of width 512."""
    size = cache_size(compiled("transformer_base").reference, BATCH, LENGTH, element=2)
    assert size.fixed_bytes == BATCH * LENGTH * 2 * 512 * (1 + 2 * 6)


@pytest.mark.parametrize("op", ["causal_conv", "recur"])
def test_decoding_reads_no_more_of_a_longer_context(op: str) -> None:
    """A convolution reads a few tokens and the positions of all, a recurrence a state."""

    def moved(context: int) -> int:
        found = kernels(compiled("mamba2_tiny").reference, Shape(1, 1, context, 1), 2, {})
        return next(kernel.work.bytes for kernel in found if kernel.op == op)

    assert moved(2000) - moved(1000) <= 1000 * 8
