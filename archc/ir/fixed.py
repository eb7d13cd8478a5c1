"""What stays the same while a sequence grows: everything that depends only on the model's other inputs.

That is the encoder's side of a model, the keys and values that a decoder's cross attention makes of it, and
what is made of a number or a vector for each sequence.
"""

from __future__ import annotations

from collections.abc import Iterable

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.ops.structure import BRANCH, CONSTANT, INPUT, LOOP, WEIGHT
from archc.ir.program import captured_in, grows, positions_named, sequences


class Fixed:
    """Which nodes of a graph, and of its loops' bodies, are fixed."""

    def __init__(self, root: Graph):
        self._nodes: dict[int, set[int]] = {}  # by the graph's id
        given = {value: value for value in root.inputs if _is_fixed_input(root, value)}
        self._collect(root, set(given))

    def __contains__(self, place: tuple[Graph, Value]) -> bool:
        graph, value = place
        return value.node in self._nodes.get(id(graph), ())

    def has_all(self, graph: Graph, values: Iterable[Value]) -> bool:
        """Whether there are values, and all are fixed."""
        found = [(graph, value) in self for value in values]
        return bool(found) and all(found)

    def of(self, graph: Graph) -> list[Node]:
        """The fixed nodes of a graph, inputs included."""
        return [node for node in graph.nodes() if node.id in self._nodes.get(id(graph), ())]

    def _collect(self, graph: Graph, inputs: set[Value]) -> None:
        fixed = {value.node for value in inputs}
        free: set[int] = set()  # what follows from weights and numbers alone
        for node in graph.nodes():
            read = {value.node for value in node.operands}
            if node.op is INPUT:
                continue
            if node.op in (WEIGHT, CONSTANT) or (read and read <= free):
                free.add(node.id)
            elif read <= fixed | free:
                fixed.add(node.id)
            if node.bodies:
                self._enter(node, fixed)
        self._nodes[id(graph)] = fixed

    def _enter(self, node: Node, fixed: set[int]) -> None:
        outside = {value: value for value in node.operands if value.node in fixed}
        for body in node.bodies:
            if node.id in fixed:
                self._collect(body, set(body.inputs))
            elif node.op in (LOOP, BRANCH):
                self._collect(body, set(captured_in(body, node, outside)))


def _is_fixed_input(root: Graph, value: Value) -> bool:
    """Whether an input has no rows of the tokens that are added."""
    known = positions_named(root.node(value).attributes["name"])
    if known is not None:
        return known[0] != sequences(root)[-1].name
    return not grows(root, value)
