"""Every weight of a model by its concrete name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from archc.ir.graph import Graph, Node, stored_in
from archc.ir.ops.structure import EXPERTS, LOOP, WEIGHT
from archc.ir.paths import Index

Named = tuple[Node, Mapping[str, int]]


def enumerate_weights(graph: Graph, indices: Mapping[str, int] | None = None) -> Iterator[Named]:
    """Each weight node with the values of the loop variables, iteration by iteration, expert by expert.

    Weights of experts that lie in one tensor of the checkpoint come once, for all of them.
    """
    indices = indices or {}
    for node in graph.nodes():
        if node.op is WEIGHT:
            yield from _stacked(node, indices)
        elif node.op is EXPERTS:
            for weight in node.bodies[0].weights():
                yield from _of_experts(weight, node.attributes["variable"], node.attributes["count"], indices)
        elif node.op is LOOP:
            bodies = [_weight_places(body) for body in node.bodies]
            if not any(weights or nested for weights, nested in bodies):
                continue  # however many iterations there are
            for step, number in zip(node.attributes["indices"], node.attributes["schedule"], strict=True):
                inner = {**indices, node.attributes["variable"]: step}
                weights, nested = bodies[number]
                for weight in weights:
                    yield from _stacked(weight, inner)
                for loop_body in nested:
                    yield from enumerate_weights(loop_body, inner)


def experts_of(weight: Node) -> tuple[str, int] | None:
    """For a weight that holds those of all experts [count, ...]: their variable and count."""
    experts: tuple[str, int] | None = weight.attributes.get("experts")
    return experts


def is_per_expert(weight: Node, variable: str) -> bool:
    """Whether the checkpoint holds a tensor for each expert, not one for all."""
    return any(
        isinstance(segment, Index) and segment.variable == variable
        for stored in stored_in(weight)
        for segment in stored.path
    )


def _stacked(weight: Node, indices: Mapping[str, int]) -> Iterator[Named]:
    experts = experts_of(weight)
    if experts is None:
        yield weight, indices
    else:
        yield from _of_experts(weight, *experts, indices)


def _of_experts(weight: Node, variable: str, count: int, indices: Mapping[str, int]) -> Iterator[Named]:
    for expert in range(count if is_per_expert(weight, variable) else 1):
        yield weight, {**indices, variable: expert}


def _weight_places(body: Graph) -> tuple[list[Node], list[Graph]]:
    """A body's weights, and itself once more when bodies inside of it hold others."""
    holding = [part for part in body.walk() if part.weights()]
    if holding == [body]:
        return body.weights(), []
    return [], [body] if holding else []
