"""Every weight of a model by its concrete name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from archc.ir.graph import Graph, Node
from archc.ir.ops.structure import LOOP, WEIGHT


def enumerate_weights(
    graph: Graph, indices: Mapping[str, int] | None = None
) -> Iterator[tuple[Node, Mapping[str, int]]]:
    """Each weight node with the values of the loop variables, iteration by iteration."""
    indices = indices or {}
    for node in graph.nodes():
        if node.op is WEIGHT:
            yield node, indices
        elif node.op is LOOP:
            bodies = [_weight_places(body) for body in node.bodies]
            if not any(weights or nested for weights, nested in bodies):
                continue  # however many iterations there are
            for step, number in zip(node.attributes["indices"], node.attributes["schedule"], strict=True):
                inner = {**indices, node.attributes["variable"]: step}
                weights, nested = bodies[number]
                yield from ((weight, inner) for weight in weights)
                for loop_body in nested:
                    yield from enumerate_weights(loop_body, inner)


def _weight_places(body: Graph) -> tuple[list[Node], list[Graph]]:
    """A body's weights, and itself once more when loops inside of it hold others."""
    holding = [part for part in body.walk() if part.weights()]
    if holding == [body]:
        return body.weights(), []
    return [], [body] if holding else []
