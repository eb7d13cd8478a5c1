"""The head of a model: the last linear map before its output."""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.structure import CONSTANT, WEIGHT


def last_linear(graph: Graph, output: Value) -> Node | None:
    """The linear map that all of an output's dependence on tokens goes through, with no weights after it."""
    value = output
    while True:
        node = graph.node(value)
        if len(graph.users(value)) + graph.is_output(value) != 1 or len(node.outputs) != 1:
            return None
        if node.op.has(Trait.LINEAR):
            return node
        varying = [v for v in node.operands if graph.node(v).op not in (CONSTANT, WEIGHT)]
        if len(varying) != 1 or not node.op.has(Trait.PER_TOKEN) or _has_weights(graph, node):
            return None
        value = varying[0]


def _has_weights(graph: Graph, node: Node) -> bool:
    return any(value is not None and graph.node(value).op is WEIGHT for value in node.inputs)
