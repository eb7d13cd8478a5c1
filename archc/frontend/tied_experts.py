"""Weights of experts that several `experts` have in common, as where a layer runs again.

While a model is traced, each `experts` has a weight of its own in its body: the first one declares it, the
others say `tied`.  Afterwards one weight, of all experts, stands in the graph around them, and each body
takes that of its expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from archc.frontend.lowerer import Frame
from archc.ir.graph import Graph
from archc.ir.node import Node, Value, stored_in
from archc.ir.ops.structure import EXPERTS, INPUT, LOOP, WEIGHT
from archc.ir.paths import Index, Stored
from archc.ir.types import TensorType

# From a graph inwards: each graph with the number of a node in it, and which of that node's bodies is next.
_Way: TypeAlias = tuple[tuple[Graph, int, int], ...]


@dataclass(frozen=True)
class OfExperts:
    """A weight that the body of `experts` has declared, for a tie to it.

    around: the graph where one weight for all would stand: of the innermost loop that its path follows
    """

    weight: Node
    variable: str
    count: int
    around: Graph


def of_experts(frame: Frame, weight: Node) -> OfExperts | None:
    """A weight of a frame's graph as one of experts; None where it is none."""
    region, around = frame.region, frame.outer
    if region is None or around is None:
        return None
    followed = _followed(weight)
    while around.outer is not None and around.variable not in followed:
        around = around.outer
    return OfExperts(weight, region.variable, region.count, around.graph)


def tied_weight(frame: Frame, known: OfExperts) -> Node:
    """The same weight once more, in the body of other experts."""
    assert frame.region is not None
    sources = tuple(_renamed(s, known.variable, frame.region.variable) for s in stored_in(known.weight))
    attributes = {**known.weight.attributes, "sources": sources, "tied": True}
    return frame.graph.add(WEIGHT, (), attributes, span=known.weight.span, path=known.weight.path)


def join_tied_experts(graph: Graph) -> None:
    """Let one weight, around all `experts` that share it, stand for those in their bodies."""
    groups: dict[object, list[_Inside]] = {}
    for inside in list(_weights_inside(graph, ())):
        groups.setdefault(inside.key, []).append(inside)
    for group in groups.values():
        if any(inside.weight.attributes.get("tied") for inside in group):
            _join(group)


@dataclass(frozen=True)
class _Inside:
    """A weight in the body of experts.

    way: how that body is reached from the graph where one weight for all would stand
    """

    body: Graph
    weight: Node
    way: _Way

    @property
    def key(self) -> object:
        """The same for the weights that one weight can stand for."""
        variable = self.way[-1][0].node(self.way[-1][1]).attributes["variable"]
        sources = tuple(_renamed(stored, variable, "") for stored in stored_in(self.weight))
        return id(self.way[0][0]), sources


def _weights_inside(graph: Graph, way: _Way) -> Iterator[_Inside]:
    for node in graph.nodes():
        for number, body in enumerate(node.bodies):
            inner = (*way, (graph, node.id, number))
            if node.op is EXPERTS:
                for weight in body.weights():
                    yield _Inside(body, weight, _from_its_loop(inner, weight))
            yield from _weights_inside(body, inner)


def _from_its_loop(way: _Way, weight: Node) -> _Way:
    """The rest of a way, from the body of the innermost loop that the weight's path follows."""
    nodes = [graph.node(number) for graph, number, _ in way]
    loops = [n.op is LOOP and n.attributes["variable"] in _followed(weight) for n in nodes]
    return way[len(loops) - loops[::-1].index(True) :] if any(loops) else way


def _join(group: list[_Inside]) -> None:
    first = group[0]
    around, number, _ = first.way[0]
    experts = first.way[-1][0].node(first.way[-1][1])
    type_, before = first.weight.types[0], around.node(number).order
    attributes = {name: value for name, value in first.weight.attributes.items() if name != "tied"}
    attributes |= {
        "type": TensorType((experts.attributes["count"], *type_.shape), type_.dtype),
        "experts": (experts.attributes["variable"], experts.attributes["count"]),
    }
    weight = around.add(
        WEIGHT,
        (),
        attributes,
        names=first.weight.names,
        span=first.weight.span,
        order=(*before[:-1], before[-1] - 1, 1),
        path=first.weight.path,
    )
    entered: dict[tuple[int, int, Value], int] = {}
    for inside in group:
        _take(inside, weight.outputs[0], entered)


def _take(inside: _Inside, value: Value, entered: dict[tuple[int, int, Value], int]) -> None:
    """Hand the weight to the body that had one of its own.

    entered: at which place of a node's operands a value stands by now, by the graph, the node and the value
    """
    for graph, number, body_number in inside.way:
        node = graph.node(number)
        if node.op is EXPERTS:
            inside.body.update(
                inside.weight,
                op=INPUT,
                attributes={"type": inside.weight.types[0], "name": _name(inside.weight)},
            )
            inside.body.inputs.append(inside.weight.outputs[0])
            taken = (*node.attributes["taken"], "expert")
            attributes = {**node.attributes, "taken": taken}
            graph.update(node, inputs=(*node.inputs, value), attributes=attributes)
            continue
        key = (id(graph), number, value)
        if key not in entered:
            entered[key] = len(node.inputs)
            for body in node.bodies:
                body.add_input(_name(inside.weight), graph.type(value), inside.weight.span)
            graph.update(node, inputs=(*node.inputs, value))
        value = node.bodies[body_number].inputs[entered[key]]


def _name(weight: Node) -> str:
    return str(next((segment for segment in reversed(weight.path) if segment != "weight"), ""))


def _followed(weight: Node) -> set[str]:
    """The variables in the paths of a weight's tensors."""
    segments = (segment for stored in stored_in(weight) for segment in stored.path)
    return {segment.variable for segment in segments if isinstance(segment, Index)}


def _renamed(stored: Stored, variable: str, other: str) -> Stored:
    """A tensor's place, where another variable counts experts."""

    def of(index: Index) -> Index:
        return replace(index, variable=other) if index.variable == variable else index

    path = tuple(of(segment) if isinstance(segment, Index) else segment for segment in stored.path)
    return replace(stored, path=path, plane=of(stored.plane) if stored.plane is not None else None)
