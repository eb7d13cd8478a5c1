"""Values that are None instead of zeros: the first layer has nothing to add to the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

from archc.ir.first_layer import may_be_none
from archc.ir.graph import Graph
from archc.ir.node import Node


@dataclass(frozen=True)
class OptionalInputs:
    """Inputs of loop bodies, as (graph, input), that are None at first, and the norms that read them."""

    inputs: frozenset[tuple[int, int]]
    readers: list[tuple[Graph, Node]]


def optional_inputs(graph: Graph) -> OptionalInputs:
    """The inputs of a graph's loops that may be None in the first layer."""
    inputs: set[tuple[int, int]] = set()
    readers: list[tuple[Graph, Node]] = []
    for part in graph.walk():
        for node in part.nodes():
            if may_be_none(part, node):
                for loop, place in part.users(node.outputs[0]):
                    for body in loop.bodies:
                        value = body.inputs[place]
                        inputs.add((id(body), value.node))
                        readers += [(body, reader) for reader, _ in body.users(value)]
    return OptionalInputs(frozenset(inputs), readers)
