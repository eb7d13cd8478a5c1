"""Nodes written a second time, into another graph or into their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.types import TensorType


class Copier:
    """Copies nodes into a graph.

    values: what stands in the graph for each value that the nodes read; copies add what they make
    """

    def __init__(self, graph: Graph, values: Mapping[Value, Value] | None = None):
        self.graph = graph
        self.values = dict(values or {})

    def copy(self, node: Node, inputs: Sequence[Value | None] | None = None, **changes: Any) -> Node:
        """Add a copy of a node, after all nodes that the graph has.

        inputs:  in place of what `values` has for those of the node
        changes: what differs from the node, by the parameters of `Graph.add`
        """
        if inputs is None:
            inputs = [None if value is None else self.values[value] for value in node.inputs]
        alike = {"names": node.names, "span": node.span, "scope": node.scope, "path": node.path}
        copy = self.graph.add(node.op, inputs, node.attributes, **{**alike, **changes})
        types = tuple(map(TensorType.with_sizes_of, copy.types, node.types))
        copy = self.graph.update(copy, types=types)
        self.stand_for(node, copy)
        return copy

    def stand_for(self, node: Node, other: Node) -> None:
        """Let the values of a node of the graph stand for those of another one."""
        self.values.update(zip(node.outputs, other.outputs, strict=True))
