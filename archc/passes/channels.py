"""Convolutions of values that lie side by side are one convolution of all their channels.

Each channel has taps of its own, so those of queries, keys and values are one weight, and what they keep of
the last tokens is one row.  What is done to each of the results alike is done to all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from archc.ir.graph import Graph
from archc.ir.node import Node, Value, stored_in
from archc.ir.ops.convolution import CAUSAL_CONV
from archc.ir.ops.shape import CONCAT, SPLIT
from archc.ir.ops.structure import APPEND, RECENT, WEIGHT
from archc.passes.context import Context, place_of
from archc.passes.fold import canonical_sizes
from archc.passes.pack import concatenate
from archc.passes.regroup import join_parts


def pack_convolutions(graph: Graph, context: Context) -> None:
    """Make one convolution of those that read neighbouring parts of one value alike."""
    for part in graph.walk():
        for group in _groups(part):
            _pack(part, group)
            context.report.remark("channels", f"{len(group)} convolutions ({place_of(group[0])}) are one")


def _groups(graph: Graph) -> list[list[Node]]:
    """Convolutions that are stored and read alike, of parts that follow one another."""
    alike: dict[tuple[object, ...], list[tuple[int, Node]]] = {}
    for node in graph.nodes():
        if node.op is CAUSAL_CONV and _is_own(graph, node):
            part = _part(graph, node)
            if graph.node(part).op is SPLIT:
                alike.setdefault((part.node, *_kind(graph, node)), []).append((part.output, node))
    groups: list[list[Node]] = []
    for found in alike.values():
        found.sort(key=lambda each: each[0])
        for number, (place, node) in enumerate(found):
            if number and place == found[number - 1][0] + 1:
                groups[-1].append(node)
            elif not number or place != found[number - 1][0]:
                groups.append([node])
    return [group for group in groups if len(group) > 1]


def _part(graph: Graph, conv: Node) -> Value:
    """The new tokens' values of what a convolution reads."""
    (read,) = conv.past
    maker = graph.node(read)
    return maker.first if maker.op is APPEND else read


def _is_own(graph: Graph, conv: Node) -> bool:
    """Whether what it keeps and its weights are read by nothing else."""
    (read,) = conv.past
    weights = [value for value in conv.inputs[3:] if value is not None]
    kept = [read] if graph.node(read).op is APPEND else []
    return all(graph.node(value).op is WEIGHT for value in weights) and all(
        graph.only_user(value) is not None for value in (*kept, *weights)
    )


def _kind(graph: Graph, conv: Node) -> tuple[object, ...]:
    """What convolutions have in common that can be one."""
    (read,) = conv.past
    maker, places = graph.node(read), graph.node(conv.inputs[2] or read)
    kept = maker.attributes.get("length") if maker.op is APPEND else ""
    looked = (places.inputs, str(places.attributes)) if places.op is RECENT else conv.inputs[2]
    weights = [graph.node(value) for value in conv.inputs[3:] if value is not None]
    stored = [
        (str(weight.attributes["init"]), weight.attributes["trained"], bool(each.planes))
        for weight in weights
        for each in stored_in(weight)[:1]
    ]
    return str(conv.attributes), conv.inputs[1], kept, looked, str(stored)


def _pack(graph: Graph, group: Sequence[Node]) -> None:
    first = group[0]
    (read,) = first.past
    given = [_part(graph, conv) for conv in group]
    called = [graph.name_of(part) for part in given]
    together = ("" if all(len(name) == 1 for name in called) else "_").join(called)
    concat = graph.add_like(first, CONCAT, given, names=(together,))
    (x,) = concat.outputs
    if graph.node(read).op is APPEND:
        (x,) = graph.add_like(graph.node(read), APPEND, [x], graph.node(read).attributes).outputs
    offset = None if first.inputs[4] is None else concatenate(graph, [conv.inputs[4] for conv in group])
    weight = concatenate(graph, [conv.inputs[3] for conv in group])
    conv = graph.add_like(first, CAUSAL_CONV, [x, *first.inputs[1:3], weight, offset], first.attributes)
    whole, ends = _after(graph, conv.outputs[0], group)
    sizes = canonical_sizes(tuple(node.types[0].columns for node in ends))
    names = tuple(graph.name_of(n.outputs[0]) or own for n, own in zip(ends, called, strict=True))
    parts = graph.add_like(ends[0], SPLIT, [whole], {"sizes": sizes}, names=names)
    for node, part in zip(ends, parts.outputs, strict=True):
        graph.replace_uses(node.outputs[0], part)
    made_for = set().union(*(graph.needed_by(node.id) | {node.id} for node in ends))
    graph.remove_unread([node for node in graph.nodes() if node.id in made_for])
    join_parts(graph, concat)


def _after(graph: Graph, whole: Value, group: Sequence[Node]) -> tuple[Value, list[Node]]:
    """What each result alone goes through, done to all of it; and the last ops that this stands for."""
    ends = list(group)
    while True:
        users = [graph.users(node.outputs[0]) for node in ends]
        if any(len(each) != 1 for each in users) or any(graph.is_output(n.outputs[0]) for n in ends):
            return whole, ends
        nodes = [each[0][0] for each in users]
        alike = {(node.op.name, str(node.attributes), len(node.inputs)) for node in nodes}
        distinct = len({node.id for node in nodes}) == len(nodes)
        if len(alike) > 1 or not distinct or not nodes[0].op.is_pointwise or len(nodes[0].inputs) > 1:
            return whole, ends
        (whole,) = graph.add_like(nodes[0], nodes[0].op, [whole], nodes[0].attributes).outputs
        ends = nodes
