"""Where queries and keys stand: at their tokens, or before or after them, as their positions are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS
from archc.ir.ops.structure import CONSTANT, INPUT
from archc.ir.program import positions_in

Holds = Callable[[Value], bool]
Made = Callable[[Graph, Node, Holds], bool]

ADD, SUB, MUL = OPS["add"], OPS["sub"], OPS["mul"]
MAXIMUM, MINIMUM, QUOTIENT = OPS["maximum"], OPS["minimum"], OPS["whole_quotient"]


class Place(NamedTuple):
    """A value of one of a program's graphs."""

    graph: Graph
    value: Value


class Standing:
    """What is known of positions in a graph and its loops' bodies.

    entered: what may enter bodies, by their inputs
    """

    def __init__(self, root: Graph):
        self.entered = _entered(root)
        self._positions = positions_in(root)

    def is_own(self, place: Place) -> bool:
        """Whether positions are those of the tokens themselves."""
        graph, value = place
        return (id(graph), value) in self._positions

    def never_before(self, place: Place) -> bool:
        """Whether positions are the tokens' own or later ones."""
        return self._always(place, _made_later, set())

    def never_after(self, place: Place) -> bool:
        """Whether positions are the tokens' own or earlier ones."""
        return self._always(place, _made_earlier, set())

    def _always(self, place: Place, made: Made, seen: set[Place]) -> bool:
        """Whether positions are the tokens' own, or `made` of such; `seen` are being looked at."""
        graph, value = place
        if self.is_own(place) or place in seen:
            return True
        node, seen = graph.node(value), {*seen, place}
        if node.op is INPUT:
            entered = self.entered.get(place, [])
            return bool(entered) and all(self._always(each, made, seen) for each in entered)
        return made(graph, node, lambda each: self._always(Place(graph, each), made, seen))


def _made_later(graph: Graph, node: Node, holds: Holds) -> bool:
    """Whether a node's positions are no earlier than those it is made of, for which that `holds`."""
    made_of = [each for each in node.operands if not _at_least_0(graph.node(each))]
    if node.op is ADD:
        return all(map(holds, made_of))
    return node.op is MAXIMUM and any(map(holds, made_of))


def _made_earlier(graph: Graph, node: Node, holds: Holds) -> bool:
    """Whether a node's positions are no later than those it is made of, for which that `holds`."""
    made_of = node.operands
    if node.op is SUB:
        return _at_least_0(graph.node(made_of[1])) and holds(made_of[0])
    if node.op is MUL:
        return _is_rounded_down(graph, node, holds)
    if node.op is QUOTIENT:
        return holds(made_of[0])
    earlier = (_at_most_0(graph.node(each)) or holds(each) for each in made_of)
    if node.op is ADD:
        return any(_at_most_0(graph.node(each)) for each in made_of) and all(earlier)
    return (node.op is MAXIMUM and all(earlier)) or (node.op is MINIMUM and any(earlier))


def _is_rounded_down(graph: Graph, node: Node, holds: Holds) -> bool:
    """Whether a product is a multiple of n below a position: n times its quotient by n, or by more."""
    for part, by in (node.inputs, node.inputs[::-1]):
        if part is None or by is None or graph.node(part).op is not QUOTIENT:
            continue
        factor = graph.node(by)
        if factor.op is CONSTANT and 0 <= factor.attributes["value"] <= graph.node(part).attributes["by"]:
            return holds(part)
    return False


def _at_least_0(node: Node) -> bool:
    """Whether a node is a number that takes nothing from what it is added to."""
    return node.op is CONSTANT and node.attributes["value"] >= 0


def _at_most_0(node: Node) -> bool:
    """Whether a node is a number that adds nothing, and is below all positions or the first of them."""
    return node.op is CONSTANT and node.attributes["value"] <= 0


def _entered(root: Graph) -> dict[Place, list[Place]]:
    """What may enter loops' bodies, by their inputs: what the loop is given, or what a body leaves."""
    found: dict[Place, list[Place]] = {}
    for graph in root.walk():
        for loop in graph.loops():
            entering = dict(enumerate(loop.attributes["entering"]))
            repeated = len(loop.attributes["schedule"]) > 1
            for place, value in enumerate(loop.inputs):
                left = [dict(body.outputs).get(entering.get(place, "")) for body in loop.bodies]
                again = [Place(b, v) for b, v in zip(loop.bodies, left, strict=True) if v is not None]
                start = [Place(graph, value)] if value is not None else []
                for body in loop.bodies:
                    found[Place(body, body.inputs[place])] = start + (again if repeated else [])
    return found
