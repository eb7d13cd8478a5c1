"""Rows of a linear map that lie head by head lie part by part, where a part of all heads is wanted whole.

A checkpoint may hold for each head its query, its key and its value, one below the other.  A value that
takes one part of all heads is then scattered over the product, and is copied before it is read as a row.
With the weight's rows in another order it is a part of the row.
"""

from __future__ import annotations

from dataclasses import replace

from archc.ir.graph import Graph
from archc.ir.inits import Spaced
from archc.ir.node import Node, Value, stored_in
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.shape import CONCAT, MERGE_HEADS, SPLIT, SPLIT_HEADS
from archc.ir.ops.structure import WEIGHT
from archc.passes.context import Context, made_by, place_of, remaining
from archc.passes.fold import canonical_sizes


def regroup_rows(graph: Graph, context: Context) -> None:
    """Order linear maps' rows by parts of heads where these are merged; join parts that lie in a row."""
    for part in graph.walk():
        for merge in remaining(part, MERGE_HEADS):
            _regroup(part, merge, context)
        for concat in remaining(part, CONCAT):  # first of all: what joins some leaves no split of all others
            _join_all_parts(part, concat)
        for concat in remaining(part, CONCAT):
            _join_neighbours(part, concat)


def _regroup(graph: Graph, merge: Node, context: Context) -> None:
    """Make what merges a part of heads a part of the product of which they are heads."""
    split = made_by(graph, merge.inputs[0], SPLIT)
    by_heads = split and made_by(graph, split.inputs[0], SPLIT_HEADS)
    linear = by_heads and made_by(graph, by_heads.inputs[0], LINEAR)
    if split is None or by_heads is None or linear is None or len(split.types) < 2:
        return
    weights = [graph.node(value) for value in linear.operands[1:]]
    alone = all(graph.only_user(node.outputs[0]) is not None for node in (by_heads, linear))
    if not alone or not _can_regroup(graph, linear, weights):
        return
    heads = by_heads.attributes["heads"]
    sizes = tuple(type_.columns for type_ in split.types)
    for weight in weights:
        sources = tuple(replace(stored, heads=heads, parts=sizes) for stored in stored_in(weight))
        graph.update(weight, attributes={**weight.attributes, "sources": sources})
    widths = canonical_sizes(tuple(heads * size for size in sizes))
    names = tuple(map(graph.name_of, split.outputs))
    parts = graph.add_like(split, SPLIT, linear.outputs, {"sizes": widths}, names=names)
    for old, new in zip(split.outputs, parts.outputs, strict=True):
        _replace_part(graph, split, old, new, heads)
    graph.remove_unread([by_heads, split])
    context.report.remark(
        "regroup", f"`{graph.name_of(linear.outputs[0]) or 'linear'}` ({place_of(linear)}): part by part"
    )


def _replace_part(graph: Graph, split: Node, old: Value, new: Value, heads: int) -> None:
    """Let readers of one part of heads read the part of the row, split into heads unless they merge these."""
    for user, _ in graph.users(old):
        if user.op is MERGE_HEADS:
            graph.replace_uses(user.outputs[0], new)
            graph.remove(user)
    if graph.users(old) or graph.is_output(old):
        again = graph.add_like(split, SPLIT_HEADS, [new], {"heads": heads}, names=(graph.name_of(old),))
        graph.replace_uses(old, again.outputs[0])


def _can_regroup(graph: Graph, linear: Node, weights: list[Node]) -> bool:
    """Whether a map's weights are its own, each one tensor of rows that may be held in any order."""
    return linear.attributes["layout"] == "out_in" and all(
        weight.op is WEIGHT
        and len(graph.users(weight.outputs[0])) == 1
        and len(stored_in(weight)) == 1
        and not any(stored.planes or stored.heads for stored in stored_in(weight))
        and not (len(weight.types[0].shape) == 1 and isinstance(weight.attributes["init"], Spaced))
        for weight in weights
    )


def _join_all_parts(graph: Graph, concat: Node) -> None:
    """All parts that a split has made, put together again in their order, are what it has split."""
    split, parts = _parts_side_by_side(graph, concat)
    if split is not None and parts == split.outputs:
        graph.replace_uses(concat.outputs[0], split.first)
        graph.remove_unread([split, concat])


def join_parts(graph: Graph, concat: Node) -> None:
    """Let what is put together of parts that a split has made, side by side, be one part or all of it."""
    _join_all_parts(graph, concat)
    if concat.id in graph:
        _join_neighbours(graph, concat)


def _join_neighbours(graph: Graph, concat: Node) -> None:
    """Some of them side by side are one part; where they are read by themselves too, it is split again."""
    split, parts = _parts_side_by_side(graph, concat)
    if split is None:
        return
    whole = _coarser(graph, split, concat, split.outputs.index(parts[0]), len(parts))
    graph.replace_uses(concat.outputs[0], whole)
    graph.remove(concat)
    if any(graph.users(value) or graph.is_output(value) for value in parts):
        sizes = canonical_sizes(tuple(graph.type(value).columns for value in parts))
        again = graph.add_like(
            split, SPLIT, [whole], {"sizes": sizes}, names=tuple(map(graph.name_of, parts))
        )
        for old, new in zip(parts, again.outputs, strict=True):
            graph.replace_uses(old, new)
    graph.remove_unread([split])


def _parts_side_by_side(graph: Graph, concat: Node) -> tuple[Node | None, tuple[Value, ...]]:
    """The split that has made what is put together, and its parts, which are side by side; or None."""
    first = concat.inputs[0]
    split = made_by(graph, first, SPLIT)
    if split is None or first is None:
        return None, ()
    place = split.outputs.index(first)
    parts = split.outputs[place : place + len(concat.inputs)]
    return (split, parts) if len(parts) > 1 and tuple(concat.inputs) == parts else (None, ())


def _coarser(graph: Graph, split: Node, concat: Node, first: int, count: int) -> Value:
    """A part for several parts of a split, which it gives anew with all others."""
    widths = [type_.columns for type_ in split.types]
    sizes = (*widths[:first], sum(widths[first : first + count]), *widths[first + count :])
    own = [graph.name_of(value) for value in split.outputs]
    names = (*own[:first], graph.name_of(concat.outputs[0]), *own[first + count :])
    parts = graph.add_like(split, SPLIT, split.inputs, {"sizes": canonical_sizes(sizes)}, names=names)
    others = [value for place, value in enumerate(parts.outputs) if place != first]
    for old, new in zip((*split.outputs[:first], *split.outputs[first + count :]), others, strict=True):
        graph.replace_uses(old, new)
    return parts.outputs[first]
