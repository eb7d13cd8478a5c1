"""Ops on rows of one form, made of parts of one value, become one op, though neither reads the other.

So do norms of a token's queries and keys, and the gates of a recurrence: their rows lie side by side, and a
program that has a row of one may as well have one of the other.
"""

from __future__ import annotations

from collections.abc import Iterable

from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.op import Trait
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.structure import CONSTANT, WEIGHT
from archc.ir.origins import Origins, once_in
from archc.passes.chain import Rows, is_on_rows
from archc.passes.context import Context
from archc.passes.join import ADD, after_head, chain_name, operand_name
from archc.passes.outline import Outline, replace_by_one


def join_siblings(graph: Graph, context: Context) -> None:
    """Compute ops on rows that read parts of one value in one kernel, where the target can."""
    if "row" not in context.target.families:
        return
    kept = set(after_head(graph))
    once = once_in(graph)
    for part, times in graph.runs():
        nodes = [
            node for node in part.nodes() if _is_kernel(node) and not (part is graph and node.id in kept)
        ]
        for node in nodes:
            if node.id in part and _join(part, node, nodes, once, times, context):
                once = once_in(graph)
    context.report.sort()


def _join(
    graph: Graph,
    first: Node,
    nodes: Iterable[Node],
    once: Origins,
    times: int,
    context: Context,
) -> bool:
    """Take in what reads parts of the value that `first` reads, as far as one kernel does; if any joins."""
    rows = Rows(graph, once)
    group, makers = [graph.node(first.id)], _makers(graph, first)
    for node in nodes:
        if node.id in graph and node.id != first.id and makers & _makers(graph, node):
            wider = rows.sorted((*group, graph.node(node.id)))
            group = wider if rows.is_one_kernel(wider) else group
    if len(group) > 1:
        outline = Outline(graph, group, "y", operand_name, whole_rows=True)
        replace_by_one(outline, chain_name(group), group[-1], times, context)
    return len(group) > 1


def _is_kernel(node: Node) -> bool:
    """Whether a node is a launch of ops on rows; a sum alone has a gradient that costs nothing."""
    return is_on_rows(node) and node.op not in (ADD, LINEAR) and not node.op.has(Trait.SHAPE)


def _makers(graph: Graph, node: Node) -> set[int]:
    """The nodes that make what a node reads, before views of it, but those of which it reads the dtype."""
    found: set[int] = set()
    node = graph.node(node.id)
    waiting = node.computed_with
    while waiting:
        maker = graph.node(waiting.pop())
        if maker.op.has(Trait.VIEW) and maker.inputs:
            waiting += maker.operands
        elif maker.op not in (CONSTANT, WEIGHT):
            found.add(maker.id)
    return found
