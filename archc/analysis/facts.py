"""The numbers of REPORT.md."""

from __future__ import annotations

from archc.analysis.cache import cache_size
from archc.analysis.context import usual_context
from archc.analysis.flops import count_flops
from archc.analysis.memory import ELEMENT_BYTES
from archc.analysis.parameters import count_parameters
from archc.ir.graph import Graph

_DTYPE = "bfloat16"
_FAR = 1 << 40  # tokens after which every ring of a cache is full


def facts(root: Graph) -> tuple[tuple[str, str], ...]:
    """What a reader of a package wants to know first, of its unfused graph with the cache planned."""
    counts, context = count_parameters(root), usual_context(root)
    flops = count_flops(root, context)
    active = (("active parameters", f"{counts.active:,}"),) if counts.active != counts.total else ()
    return (
        ("parameters", f"{counts.total:,}"),
        *active,
        ("without embedding tables and head", f"{counts.non_embedding:,}"),
        ("cache", _cache_text(root)),
        ("FLOPs of a token's products with weights", f"{flops.weights:,}"),
        (f"FLOPs of its attention, in the mean over {context:,} tokens", f"{flops.attention:,}"),
    )


def _cache_text(root: Graph) -> str:
    """What a token adds to the cache, first and later, and what is in it before any."""
    none, last, far = (
        cache_size(root, 1, context, int(ELEMENT_BYTES[_DTYPE])) for context in (0, _FAR - 1, _FAR)
    )
    each, later = far.bytes_per_token, far.bytes - last.bytes
    return (
        f"{each:,} bytes a token in {_DTYPE}"
        + (f", {later:,} once its rings are full" if later < each else "")
        + (f", and {none.bytes:,} of states" if none.bytes else "")
    )
