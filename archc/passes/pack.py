"""Sibling linears become one: q|k|v and gate|up are a single matrix product; so are small ones on one input.

The weight of the product holds the siblings' weights row by row; its sources say which rows are whose, so a
checkpoint is loaded and saved in its original layout.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from archc.ir.graph import Graph
from archc.ir.head import last_linear
from archc.ir.node import Node, Value, shared_in, stored_in
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.shape import SPLIT
from archc.ir.ops.structure import APPEND, WEIGHT
from archc.ir.paths import path_text
from archc.ir.reached import reached
from archc.ir.types import DType, TensorType
from archc.passes.context import Context, place_of
from archc.passes.fold import canonical_sizes
from archc.passes.reuse import Reuse

_ALIGNED = 8  # numbers of half precision in 16 bytes, which kernels read at once


def pack_linears(graph: Graph, context: Context) -> None:
    """Pack linears that read one value and meet again in one op; then gates on what they lead to; then small.

    So are linears of which a part meets others where these end, and the rest goes on.
    """
    heads = [head.id for _, value in graph.outputs if (head := last_linear(graph, value)) is not None]
    reuse = Reuse(graph)
    packed: list[tuple[Graph, Node]] = []
    for partly, gated in ((False, False), (False, True), (True, True)):
        found = [(part, _groups(part, partly)) for part in graph.walk()]  # all, before any is packed
        for part, groups in found:
            for (_, meeting), group in groups.items():
                there = all(node.id in part for node in group)  # not one with others just now
                if there and not (gated and any(not _is_gate_or_gated(part, n, meeting) for n in group)):
                    packed += _pack_group(part, group, reuse, context)
    for part in graph.walk():
        for group in _small_groups(part, heads if part is graph else (), reuse):
            if all(node.id in part for node in group):
                packed += _pack_group(part, group, reuse, context)
    for part, linear in packed:
        if linear.id in part:  # not packed with others since
            names = _weight_names(part, linear, reuse)
            context.report.remark("pack", f"{names} ({place_of(linear)}) are one linear")


def _pack_group(graph: Graph, group: list[Node], reuse: Reuse, context: Context) -> list[tuple[Graph, Node]]:
    """What the group has become, wherever its weights are used; nothing if they stay apart."""
    reason = _obstacle(graph, group, reuse)
    if not reason:
        return _pack(graph, group, reuse)
    names = ", ".join(_weight_names(graph, node, reuse) for node in group)
    context.report.remark("pack", f"{names} ({place_of(group[0])}) stay apart: {reason}")
    return []


def _small_groups(graph: Graph, heads: Collection[int], reuse: Reuse) -> list[list[Node]]:
    """Linears on one value that are stored alike, of which one may make more of it than it has, and no head.

    A small product takes hardly longer than its launch, wherever its result goes.
    """
    groups: dict[tuple[object, ...], list[Node]] = {}
    for node in graph.nodes():
        if (
            node.op is LINEAR
            and node.id not in heads
            and _is_aligned(node)
            and not _obstacle(graph, [node], reuse)
        ):
            groups.setdefault(_kind(graph, node, reuse), []).append(node)
    for kind, group in groups.items():
        large = [node for node in group if _makes_more(graph, node)]
        groups[kind] = [node for node in group if node not in large[1:]]
    return [group for group in groups.values() if len(group) > 1]


def _kind(graph: Graph, linear: Node, reuse: Reuse) -> tuple[object, ...]:
    """What linears have in common that can be packed, and what they read, wherever their weights are used."""
    weight = reuse.maker(graph, linear.operands[1])
    read = tuple((where, use.inputs[0]) for where, (use,) in reuse.uses(graph, [linear]))
    planes = any(stored.planes for stored in stored_in(weight))
    starts = str(weight.attributes["init"]), weight.attributes["trained"]
    return linear.inputs[0], read, linear.inputs[2] is None, str(linear.attributes), *starts, planes


def _makes_more(graph: Graph, linear: Node) -> bool:
    """Whether a linear's result is wider than what it reads."""
    return int(linear.types[0].width) > int(graph.type(linear.first).width)


def _is_gate_or_gated(graph: Graph, linear: Node, meeting: int) -> bool:
    """Whether a linear meets others before it meets another linear, in rows whose parts kernels read well."""
    between = graph.depends_on(linear.id) & graph.needed_by(meeting)
    return _is_aligned(linear) and not any(graph.node(number).op is LINEAR for number in between)


def _is_aligned(linear: Node) -> bool:
    """Whether kernels read rows well of which a linear's result is a part."""
    width = linear.types[0].width
    return isinstance(width, int) and width % _ALIGNED == 0


def _groups(graph: Graph, partly: bool) -> dict[tuple[Value, int], list[Node]]:
    """Several linears by what they read and where they meet, in program order.

    partly: also where one ends, with those of which a part meets it there
    """
    nodes = graph.nodes()
    places = {node.id: place for place, node in enumerate(nodes)}
    siblings: dict[Value, list[Node]] = {}
    for node in nodes:
        if node.op is LINEAR:
            siblings.setdefault(node.first, []).append(node)
    groups: dict[tuple[Value, int], list[Node]] = {}
    for source, linears in siblings.items():
        ends = {n.id: _meeting(graph, source, n, places) for n in (linears if len(linears) > 1 else ())}
        for meeting in dict.fromkeys(end for end in ends.values() if end is not None):
            groups[source, meeting] = [
                n for n in linears if ends[n.id] == meeting or (partly and meeting in _made_of(graph, n))
            ]
    return {key: group for key, group in groups.items() if len(group) > 1}


def _meeting(graph: Graph, source: Value, linear: Node, places: Mapping[int, int]) -> int | None:
    """The first op that every path from a linear leads through, and that reads its source in another way too.

    places: where each node stands in the graph's order
    """
    others = _made_of(graph, graph.node(source)) - _made_of(graph, linear) - {linear.id}
    waiting = {linear.id}
    while waiting:
        node = graph.node(min(waiting, key=places.__getitem__))
        waiting.remove(node.id)
        if not waiting and any(value.node in others for value in node.computed_with):
            return node.id
        if node.op is not APPEND and any(graph.is_output(value) for value in node.outputs):
            return None  # what is kept goes to later layers as well
        waiting |= {user.id for user in _readers(graph, node)}
    return None


def _made_of(graph: Graph, node: Node) -> set[int]:
    """Numbers of the nodes that are computed of a node's values, directly or through others."""
    return reached(node.id, lambda number: (reader.id for reader in _readers(graph, graph.node(number))))


def _readers(graph: Graph, node: Node) -> list[Node]:
    """The nodes that read more of a node's values than their dtype."""
    users = [(value, user) for value in node.outputs for user, _ in graph.users(value)]
    return [user for value, user in users if value in user.computed_with]


def _obstacle(graph: Graph, group: list[Node], reuse: Reuse) -> str:
    """Why a group cannot be packed, or nothing."""
    origins = [reuse.origin(graph, node.operands[1]) for node in group]
    weights = [home.node(value) for home, value in origins]
    elsewhere = any(home is not origins[0][0] for home, _ in origins) or not reuse.uses(graph, group)
    if elsewhere or any(weight.op is not WEIGHT for weight in weights):
        return "a weight is shared with another place"
    if len({node.inputs[2] is None for node in group}) > 1:
        return "some have a bias and some have none"
    if len({str(weight.attributes["init"]) for weight in weights}) > 1:
        return "their weights start out differently"
    if len({bool(stored.planes) for weight in weights for stored in stored_in(weight)}) > 1:
        return "some experts' weights lie in one tensor, some in their own"
    if len({weight.attributes["trained"] for weight in weights}) > 1:
        return "some are trained and some are not"
    if any(node.attributes != group[0].attributes for node in group):
        return "their weights are stored differently"
    return ""


def _pack(graph: Graph, group: list[Node], reuse: Reuse) -> list[tuple[Graph, Node]]:
    """Pack a group, and all others that have the same weights; the linears, with their graphs."""
    uses = reuse.uses(graph, group)
    held: list[tuple[Graph, Value] | None] = []
    for place in (1, 2):
        values = [node.inputs[place] for node in group]
        origins = [reuse.origin(graph, value) for value in values if value is not None]
        home = origins[0][0] if origins else graph
        held.append((home, concatenate(home, [value for _, value in origins])) if origins else None)
    packed: list[tuple[Graph, Node]] = []
    for where, use in uses:
        weight, offset = (reuse.bring(each[1], each[0], where) if each is not None else None for each in held)
        packed.append((where, _pack_one(where, use, weight, offset)))
    return packed


def _pack_one(graph: Graph, group: list[Node], weight: Value | None, offset: Value | None) -> Node:
    first = group[0]
    packed = graph.add(
        LINEAR,
        [first.inputs[0], weight, offset],
        first.attributes,
        span=first.span,
        scope=first.scope,
        order=(*first.order, 0),
    )
    sizes = canonical_sizes(tuple(node.types[0].columns for node in group))
    parts = graph.add(
        SPLIT,
        [packed.outputs[0]],
        {"sizes": sizes},
        names=tuple(graph.name_of(node.outputs[0]) or _path_name(graph, node) for node in group),
        span=first.span,
        scope=first.scope,
        order=(*first.order, 1),
    )
    for node, part in zip(group, parts.outputs, strict=True):
        graph.replace_uses(node.outputs[0], part)
        graph.remove(node)
    return packed


def _path_name(graph: Graph, linear: Node) -> str:
    """The last word of the path that a linear was called under, `q` for q_proj; `qkv` for one of parts."""
    if linear.path:
        return str(linear.path[-1]).removesuffix("_proj")
    parts = [graph.name_of(part) for user, _ in graph.users(linear.outputs[0]) for part in user.outputs]
    return ("" if all(len(part) == 1 for part in parts) else "_").join(parts)


def concatenate(graph: Graph, values: Sequence[Value | None]) -> Value:
    """One weight that holds the rows of several, which must have no other reader left."""
    weights = [graph.node(value) for value in values if value is not None]
    sources = tuple(stored for weight in weights for stored in stored_in(weight))
    rows: int = 0
    for weight in weights:
        height = weight.types[0].shape[0]
        assert isinstance(height, int)
        rows = rows + height
    type_ = TensorType((rows, *weights[0].types[0].shape[1:]), DType.FLOAT)
    attributes = {**weights[0].attributes, "type": type_, "sources": sources}
    shared = [found for weight in weights if (found := shared_in(weight)) is not None]
    if shared:
        of_shared = tuple(stored for each in shared for stored in each.sources)
        attributes["shared"] = replace(shared[0], sources=of_shared)
    return graph.add_like(weights[0], WEIGHT, (), attributes).outputs[0]


def _weight_names(graph: Graph, linear: Node, reuse: Reuse) -> str:
    node = reuse.maker(graph, linear.operands[1])
    if node.op is not WEIGHT:
        return "a tied weight"
    return ", ".join(dict.fromkeys(path_text(stored.path[:-1]) for stored in stored_in(node)))
