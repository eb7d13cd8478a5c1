"""What decoding keeps of earlier tokens, by the plan of the cache."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.op import Op
from archc.ir.ops.recurrence import CARRIED
from archc.ir.ops.structure import APPEND, KEEP
from archc.ir.types import DType

_FAR = 1 << 40  # tokens after which every ring is full


@dataclass(frozen=True)
class CacheSize:
    """Bytes of a cache.

    bytes_per_token:         what one token of one sequence leaves, over all layers, while all see it
    lasting_bytes_per_token: those of them that are in no ring
    state_bytes:             of the states that layers carry, for one sequence
    bytes:                   of `batch` sequences of `context` tokens each, states included
    fixed_bytes:             of what is computed once from other sequences of as many tokens, as an encoder's
    """

    bytes_per_token: int
    lasting_bytes_per_token: int
    state_bytes: int
    bytes: int
    fixed_bytes: int


def cache_size(root: Graph, batch: int, context: int, element: int) -> CacheSize:
    """The cache of a graph in which it has been planned; values are of `element` bytes, numbers of 8."""
    nodes = [(node, times) for graph, times in root.runs() for node in graph.nodes()]

    def bytes_of(op: Op, length: int) -> int:
        return sum(times * _elements(node, length) * width(node) for node, times in nodes if node.op is op)

    def width(node: Node) -> int:
        if node.op is CARRIED or node.types[0].dtype is DType.F32:
            return max(element, 4)  # float32, at least
        return 8 if node.types[0].dtype is DType.I64 else element

    return CacheSize(
        bytes_per_token=bytes_of(APPEND, 1),
        lasting_bytes_per_token=bytes_of(APPEND, _FAR) - bytes_of(APPEND, _FAR - 1),
        state_bytes=bytes_of(CARRIED, 1),
        bytes=batch * (bytes_of(APPEND, context) + bytes_of(CARRIED, context)),
        fixed_bytes=batch * bytes_of(KEEP, context),
    )


def _elements(node: Node, length: int) -> int:
    """Elements kept of `length` tokens of one sequence, or of the last of them."""
    kept = min(length, node.attributes.get("length") or length)
    dims = node.types[0].shape[1:]
    return prod(kept if isinstance(dim, str) else int(dim) for dim in dims)
