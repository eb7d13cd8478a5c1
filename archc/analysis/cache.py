"""What decoding keeps of earlier tokens, by the plan of the cache."""

from __future__ import annotations

from dataclasses import dataclass

from archc.ir.graph import Graph, Node
from archc.ir.ops.structure import APPEND


@dataclass(frozen=True)
class CacheSize:
    """Bytes of a cache.

    bytes_per_token: what one token of one sequence leaves, over all layers, while all see it
    bytes:           of `batch` sequences of `context` tokens each
    """

    bytes_per_token: int
    bytes: int


def cache_size(root: Graph, batch: int, context: int, element: int) -> CacheSize:
    """The cache of a graph in which it has been planned, its values of `element` bytes each."""
    kept = [(node, times) for graph, times in root.runs() for node in graph.nodes() if node.op is APPEND]

    def bytes_of(length: int) -> int:
        return element * sum(times * _elements(node, length) for node, times in kept)

    return CacheSize(bytes_per_token=bytes_of(1), bytes=batch * bytes_of(context))


def _elements(node: Node, length: int) -> int:
    """Elements kept of `length` tokens of one sequence, or of the last of them."""
    kept = min(length, node.attributes["length"] or length)
    return node.types[0].bind({"B": 1, "S": kept}).numel()
