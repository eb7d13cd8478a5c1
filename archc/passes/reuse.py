"""Where weights are read: a layer that runs several times, written out or in a loop, reads the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.structure import INPUT, LOOP
from archc.passes.hoist import capture


class Reuse:
    """The loops around each part of a graph, and what they hand in unchanged."""

    def __init__(self, graph: Graph):
        self._around: dict[Graph, tuple[Graph, int]] = {}
        for part in graph.walk():
            for loop in part.loops():
                self._around.update((body, (part, loop.id)) for body in loop.bodies)

    def origin(self, part: Graph, value: Value) -> tuple[Graph, Value]:
        """Where a value is made that loops hand in."""
        while part.node(value).op is INPUT and part in self._around:
            outer, number = self._around[part]
            loop, place = outer.node(number), part.inputs.index(value)
            given = loop.inputs[place]
            if place < len(loop.attributes["entering"]) or given is None:
                break
            part, value = outer, given
        return part, value

    def maker(self, part: Graph, value: Value) -> Node:
        """The node that makes a value, outside of loops that hand it in."""
        outer, made = self.origin(part, value)
        return outer.node(made)

    def bring(self, value: Value, home: Graph, part: Graph) -> Value:
        """A value of the graph `home` as a part of it, in loops, sees it."""
        if part is home:
            return value
        outer, number = self._around[part]
        return capture(outer, number, part, self.bring(value, home, outer))

    def uses(self, part: Graph, group: Sequence[Node]) -> list[tuple[Graph, list[Node]]]:
        """The linears with the weights and biases of a group, for each value that they read, and where.

        Nothing where the weights are not all read by as many linears, of the same values.
        """
        alike = [self._with_weights_of(part, linear) for linear in group]
        if any(not found or found.keys() != alike[0].keys() for found in alike):
            return []
        return [(where, [found[where, value] for found in alike]) for where, value in alike[0]]

    def _with_weights_of(self, part: Graph, linear: Node) -> dict[tuple[Graph, Value | None], Node]:
        """The linears with the weights of one, by what they read; none where one is read otherwise."""
        found: dict[tuple[Graph, Value | None], Node] = {}
        readers: list[set[tuple[Graph, int]]] = []
        for place, value in enumerate(linear.inputs):
            if not place or value is None:
                continue
            uses = list(self._readers(*self.origin(part, value)))
            if any(
                n.op is not LINEAR or at != place or n.attributes != linear.attributes for _, n, at in uses
            ):
                return {}
            readers.append({(where, node.id) for where, node, _ in uses})
            found.update(((where, node.inputs[0]), node) for where, node, _ in uses)
        return found if all(each == readers[0] for each in readers) and len(found) == len(readers[0]) else {}

    def handed(self, part: Graph, value: Value) -> Iterator[tuple[Graph, Value]]:
        """A value, and what it is in the loops that hand it in."""
        yield part, value
        for user, place in part.users(value):
            if _hands_in(user, place):
                for body in user.bodies:
                    yield from self.handed(body, body.inputs[place])

    def _readers(self, part: Graph, value: Value) -> Iterator[tuple[Graph, Node, int]]:
        """The nodes that read a value, with the operand's place, also in loops that hand it in."""
        for where, each in self.handed(part, value):
            for user, place in where.users(each):
                if not _hands_in(user, place):
                    yield where, user, place


def _hands_in(user: Node, place: int) -> bool:
    """Whether a loop hands in an operand as it is."""
    return user.op is LOOP and place >= len(user.attributes["entering"])
