"""What a model costs, held to what PyTorch counts and allocates."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from archc.analysis.cache import cache_size
from archc.analysis.flops import count_flops
from archc.analysis.kernels import node_flops
from archc.ir.graph import Graph
from archc.ir.op import OPS
from archc.ir.ops.attention import Causal, Chunked, Full, Mask, Sliding
from tests.analysis.models import MODELS, TINY, built, compiled

BATCH, LENGTH = 3, 24
MASKS = (Causal(), Full(), Sliding(6), Sliding(50), Chunked(6), Chunked(50))


@pytest.mark.parametrize("model", MODELS)
def test_the_cache_is_what_new_cache_allocates(model: str) -> None:
    module = built(model).Model(device="meta", dtype=torch.bfloat16)
    cache = module.new_cache(BATCH, LENGTH)
    allocated = sum(t.numel() * t.element_size() for layer in cache.layers for t in layer.values())
    size = cache_size(compiled(model).reference, BATCH, LENGTH, element=2)
    assert size.bytes == allocated
    assert size.bytes_per_token == allocated // (BATCH * LENGTH)


@pytest.mark.parametrize("model", TINY)
def test_flops_are_those_that_torch_counts(model: str) -> None:
    """The unfused module computes the scores of all keys, those that a query does not see as well."""
    torch.manual_seed(0)
    module = built(model).Reference(dtype=torch.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.randint(50, (1, LENGTH)))
    flops = count_flops(compiled(model).reference, LENGTH)
    seen, all_keys = _attention(compiled(model).reference)
    assert counter.get_total_flops() == flops.weights * LENGTH + all_keys
    assert flops.attention == seen // LENGTH < all_keys // LENGTH


def _attention(root: Graph) -> tuple[int, int]:
    """FLOPs of attention over the keys that are seen, and over all."""
    seen = all_keys = 0
    for graph, times in root.runs():
        for node in graph.nodes():
            if node.op.name == "attend":
                mask: Mask = node.attributes["mask"]
                flops = times * node_flops(graph, node, {"B": 1, "T": LENGTH, "S": LENGTH}).matrix
                seen += flops
                all_keys += flops // mask.pairs(LENGTH, LENGTH) * LENGTH**2
    return seen, all_keys


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
