"""Every weight of a model by its concrete name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from archc.ir.graph import Graph
from archc.ir.node import Node, stored_in
from archc.ir.ops.structure import EXPERTS, LOOP, WEIGHT
from archc.ir.paths import Index, concrete, concrete_names, pattern

Named = tuple[Node, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Place:
    """A weight in one iteration: the values of the loop variables, and for experts' their variable and count.

    Weights of experts that lie in one tensor of the checkpoint count once, for all of them.
    """

    node: Node
    indices: Mapping[str, int]
    experts: tuple[str, int] | None = None

    def names(self) -> list[str]:
        """The names of its tensors in the checkpoint, of all experts."""
        paths = [stored.path for stored in stored_in(self.node)]
        if self.experts is None:
            return [concrete(path, self.indices) for path in paths]
        return [name for path in paths for name in concrete_names(path, self.indices, *self.experts)]

    def patterns(self) -> list[str]:
        """Its names with `*` for what counts experts."""
        if self.experts is None:
            return self.names()
        variable, _ = self.experts
        first = {**self.indices, variable: 0}
        return [pattern(stored.path, first, variable) for stored in stored_in(self.node)]


def enumerate_weights(graph: Graph) -> Iterator[Named]:
    """Each weight node with the values of the loop variables, iteration by iteration, expert by expert."""
    for place in weight_places(graph):
        if place.experts is None:
            yield place.node, place.indices
        else:
            variable, count = place.experts
            for expert in range(count):
                yield place.node, {**place.indices, variable: expert}


def weight_places(graph: Graph, indices: Mapping[str, int] | None = None) -> Iterator[Place]:
    """The places of all weights, iteration by iteration."""
    indices = indices or {}
    for node in graph.nodes():
        if node.op is WEIGHT:
            yield _place(node, indices, experts_of(node))
        elif node.op is EXPERTS:
            for weight in node.bodies[0].weights():
                yield _place(weight, indices, (node.attributes["variable"], node.attributes["count"]))
        elif node.op is LOOP:
            bodies = [_weights_inside(body) for body in node.bodies]
            if not any(weights or nested for weights, nested in bodies):
                continue  # however many iterations there are
            for step, number in zip(node.attributes["indices"], node.attributes["schedule"], strict=True):
                inner = {**indices, node.attributes["variable"]: step}
                weights, nested = bodies[number]
                for weight in weights:
                    yield _place(weight, inner, experts_of(weight))
                for loop_body in nested:
                    yield from weight_places(loop_body, inner)


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


def _place(weight: Node, indices: Mapping[str, int], experts: tuple[str, int] | None) -> Place:
    if experts is not None and not is_per_expert(weight, experts[0]):
        experts = (experts[0], 1)
    return Place(weight, indices, experts)


def _weights_inside(body: Graph) -> tuple[list[Node], list[Graph]]:
    """A body's weights, and itself once more when bodies inside of it hold others."""
    holding = [part for part in body.walk() if part.weights()]
    if holding == [body]:
        return body.weights(), []
    return [], [body] if holding else []
