"""Elementwise ops change places with views of heads, so that ops on both sides are on rows of one shape.

merge_heads(sigmoid(h + bias)) * x     becomes     sigmoid(merge_heads(h) + merge_heads(bias)) * x
"""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.shape import MERGE_HEADS, SPLIT_HEADS
from archc.ir.ops.structure import CONSTANT
from archc.passes.chain import is_on_rows
from archc.passes.context import Context


def move_views(graph: Graph, context: Context) -> None:
    """Take heads apart, or put them together, before elementwise ops where ops on rows follow."""
    if "row" not in context.target.families:
        return
    for part in graph.walk():
        for node in part.nodes():
            if node.op in (MERGE_HEADS, SPLIT_HEADS) and _is_read_by_rows(part, node):
                _move(part, node)


def _is_read_by_rows(graph: Graph, view: Node) -> bool:
    """Whether an op that a kernel of rows computes reads what a view gives."""
    users = [user for user, _ in graph.users(view.outputs[0])]
    return any(is_on_rows(user) and user.op is not LINEAR for user in users)


def _move(graph: Graph, view: Node) -> None:
    """Put a view before the ops that make what it reads: elementwise ones that nothing else reads."""
    view = graph.node(view.id)
    maker = graph.node(view.first)
    if not _may_follow(graph, maker, view):
        return
    views = {
        value: graph.add_like(view, view.op, [value], view.attributes)
        for value in _computed_with(graph, maker)
    }
    inputs = [views[value].outputs[0] if value in views else value for value in maker.inputs]
    moved = graph.add_like(maker, maker.op, inputs, maker.attributes, names=view.names)
    graph.replace_uses(view.outputs[0], moved.outputs[0])
    graph.remove_unread([maker, view])
    for before in views.values():
        _move(graph, before)


def _may_follow(graph: Graph, maker: Node, view: Node) -> bool:
    """Whether an op computes the same of what a view gives of all its operands, and of numbers."""
    if not (maker.op.is_pointwise or maker.op.name in ("upcast", "cast_like")) or maker.attributes:
        return False
    (made,) = maker.outputs
    if graph.only_user(made) is None:
        return False
    viewed = 2 if view.op is MERGE_HEADS else 1  # of the last dims
    kept = maker.types[0].shape[-viewed:]
    shapes = [graph.type(value).shape for value in _computed_with(graph, maker)]
    return all(shape[-viewed:] == kept for shape in shapes)


def _computed_with(graph: Graph, node: Node) -> list[Value]:
    """The operands of which a node reads more than the dtype, and which are no numbers."""
    return [value for value in dict.fromkeys(node.computed_with) if graph.node(value).op is not CONSTANT]
