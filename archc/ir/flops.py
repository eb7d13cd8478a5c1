"""What graphs compute, and what they read of their inputs."""

from __future__ import annotations

from collections.abc import Mapping

from archc.ir.graph import Graph
from archc.ir.node import Node


def node_flops(graph: Graph, node: Node, sizes: Mapping[str, int] | None = None) -> int:
    """Floating-point operations of a node, with `sizes` for symbolic dims."""
    return node.op.flops(node.op.call(graph.input_types(node, sizes), node.attributes))


def graph_flops(graph: Graph) -> int:
    """Floating-point operations of all nodes of a graph whose sizes are known."""
    return sum(node_flops(graph, node) for node in graph.nodes())


def input_reads(graph: Graph) -> dict[str, int]:
    """How many elements are read of those inputs that are not read whole, by name."""
    found: dict[str, int] = {}
    for node in graph.nodes():
        for operand, count in node.op.reads(node.op.call(graph.input_types(node), node.attributes)).items():
            value = node.named.get(operand)
            if value in graph.inputs:
                found[graph.name_of(value)] = count
    return found
