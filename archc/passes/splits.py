"""A part of a split that is split again is split at once.

qkv, gate = split(x, [640, 384]); q, k, v = split(qkv, [384, 128, 128])
becomes     q, k, v, gate = split(x, [384, 128, 128, 384])

At last, parts that are equal by chance are listed: with `nope` and `v_dim` of 128, split(kv, 2) is
split(kv, [nope, v_dim]) again, and stays right for whoever changes one of them in the generated code.
"""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.ops.shape import SPLIT
from archc.ir.sizes import Size
from archc.passes.context import Context, made_by, remaining
from archc.passes.fold import canonical_sizes


def join_splits(graph: Graph, _context: Context) -> None:
    """Split once what nothing reads but what splits it further."""
    for part in graph.walk():
        for node in remaining(part, SPLIT):
            outer = made_by(part, node.first, SPLIT)
            if outer is not None and part.only_user(node.first) is not None:
                _join(part, outer, node)


def _join(graph: Graph, outer: Node, inner: Node) -> None:
    place = outer.outputs.index(inner.first)
    parts = [*outer.outputs[:place], *inner.outputs, *outer.outputs[place + 1 :]]
    widths = tuple(graph.type(part).columns for part in parts)
    names = tuple(graph.name_of(part) for part in parts)
    joined = graph.add_like(outer, SPLIT, outer.inputs, {"sizes": canonical_sizes(widths)}, names=names)
    for part, new in zip(parts, joined.outputs, strict=True):
        graph.replace_uses(part, new)
    graph.remove(inner)
    graph.remove(outer)


def list_parts(graph: Graph, _context: Context) -> None:
    """List the widths of equal parts whose sizes are computed from different parameters."""
    for part in graph.walk():
        for node in remaining(part, SPLIT):
            widths = tuple(type_.columns for type_ in node.types)
            origins = {width.text if isinstance(width, Size) else str(width) for width in widths}
            if len(origins) > 1:
                part.update(node, attributes={"sizes": widths})
