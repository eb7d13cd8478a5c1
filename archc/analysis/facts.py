"""The numbers of REPORT.md."""

from __future__ import annotations

from archc.analysis.cache import CacheSize, cache_size
from archc.analysis.context import usual_context
from archc.analysis.flops import count_flops
from archc.analysis.memory import ELEMENT_BYTES
from archc.analysis.parameters import count_parameters
from archc.ir.graph import Graph

_DTYPE = "bfloat16"


def facts(root: Graph) -> tuple[tuple[str, str], ...]:
    """What a reader of a package wants to know first, of its unfused graph with the cache planned."""
    counts, context = count_parameters(root), usual_context(root)
    flops = count_flops(root, context)
    cache = cache_size(root, 1, context, int(ELEMENT_BYTES[_DTYPE]))
    active = (("active parameters", f"{counts.active:,}"),) if counts.active != counts.total else ()
    return (
        ("parameters", f"{counts.total:,}"),
        *active,
        ("without embedding tables and head", f"{counts.non_embedding:,}"),
        ("cache", _cache_text(cache)),
        ("FLOPs of a token's products with weights", f"{flops.weights:,}"),
        (f"FLOPs of its attention, in the mean over {context:,} tokens", f"{flops.attention:,}"),
    )


def _cache_text(cache: CacheSize) -> str:
    """What a token adds to it, first and later, and what is in it before any."""
    each, lasting, states = cache.bytes_per_token, cache.lasting_bytes_per_token, cache.state_bytes
    return (
        f"{each:,} bytes a token in {_DTYPE}"
        + (f", {lasting:,} once its rings are full" if lasting < each else "")
        + (f", and {states:,} of states" if states else "")
    )
