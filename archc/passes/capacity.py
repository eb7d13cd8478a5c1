"""The capacity of experts is computed in one kernel, which compares choices with one another, not by expert.

Its cost depends neither on the number of experts nor on how much of the sequence is in a cache.  Choices that
it leaves without weight are known as such where choices are sorted.
"""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Op
from archc.ir.ops.balance import WITHIN, WITHIN_CAPACITY
from archc.ir.ops.experts import SORT_CHOICES
from archc.ir.ops.router import UNLESS_ZERO
from archc.ir.ops.training import DROP, DROP_CROWDED
from archc.passes.context import Context, place_of
from archc.passes.report import Fired


def join_capacities(graph: Graph, context: Context) -> None:
    """Compute which choices are kept, and their weights, in one kernel, where the target has it."""
    if "experts" not in context.target.families:
        return
    for part, times in graph.runs():
        for node in part.nodes():
            if node.op is WITHIN:
                weights, _, *others = node.inputs
                _replace(part, node, WITHIN_CAPACITY, [weights, *others], times, context)
            elif node.op is DROP:
                _replace(part, node, DROP_CROWDED, list(node.inputs), times, context)
            elif node.op is UNLESS_ZERO:
                _join_sorts(part, part.node(node.id))  # whose weights may be new


def _join_sorts(graph: Graph, node: Node) -> None:
    """Let those who sort choices read which of them have no weight."""
    (marked,) = node.outputs
    for user, _ in graph.users(marked):
        if user.op is SORT_CHOICES and user.inputs == (marked, None):
            graph.update(user, inputs=node.inputs)
    graph.remove_unread([node])


def _replace(
    graph: Graph, node: Node, op: Op, inputs: list[Value | None], times: int, context: Context
) -> None:
    joined = graph.add_like(node, op, inputs, node.attributes, names=node.names)
    graph.replace_uses(node.outputs[0], joined.outputs[0])
    graph.remove(node)
    context.report.fired.append(Fired(op.name, place_of(joined), times, (), node.span))
