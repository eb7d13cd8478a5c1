"""Graphs of typed ops, on networkx.

Nodes are immutable; a graph changes through its methods, and a replacement takes over the span, the scope
and the place in program order of what it replaces.  Values are named by the node that makes them, so a node
may be exchanged for another under the same number without touching its users.  An edge leads to a reader.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import networkx as nx

from archc.errors import Span
from archc.ir.node import Node, Scope, Value
from archc.ir.op import Op
from archc.ir.ops.structure import BRANCH, EXPERTS, INPUT, LOOP, LOSSES, SCAN, WEIGHT
from archc.ir.paths import Path
from archc.ir.reached import reached
from archc.ir.types import TensorType


class Graph:
    """A dataflow graph with named inputs and outputs."""

    def __init__(self, name: str):
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[tuple[str, Value]] = []
        self.unverified: set[int] = set()  # nodes that have changed, or whose operands have
        self._nodes: dict[int, Node] = {}
        self._net = nx.DiGraph()  # of their numbers
        self._next = 0
        self._sorted: dict[int, Node] = {}  # in the order of nodes(); empty where that may have changed

    def node(self, value: Value | int) -> Node:
        """The node that makes a value."""
        return self._nodes[value if isinstance(value, int) else value[0]]

    def __contains__(self, number: int) -> bool:
        return number in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def type(self, value: Value) -> TensorType:
        return self._nodes[value.node].types[value.output]

    def input_types(self, node: Node, sizes: Mapping[str, int] | None = None) -> list[TensorType | None]:
        """The types of what a node reads, with `sizes` for symbolic dims where they are given."""
        types = [None if value is None else self.type(value) for value in node.inputs]
        return types if sizes is None else [None if each is None else each.bind(sizes) for each in types]

    def operand_types(self, node: Node) -> dict[str, TensorType]:
        """The types of the operands that a node has, by their names."""
        return {name: self.type(value) for name, value in node.named.items()}

    def name_of(self, value: Value) -> str:
        names = self.node(value).names
        return names[value.output] if value.output < len(names) else ""

    def users(self, value: Value) -> list[tuple[Node, int]]:
        """Nodes that read a value, with the operand's place, in program order."""
        found = [
            (user, place)
            for user in map(self._nodes.__getitem__, self._net.successors(value.node))
            for place, operand in enumerate(user.inputs)
            if operand == value
        ]
        return sorted(found, key=lambda use: (use[0].order, use[0].id, use[1])) if len(found) > 1 else found

    def only_user(self, value: Value) -> Node | None:
        """The node that reads a value, where nothing else does and the graph does not return it."""
        found = self.users(value)
        return found[0][0] if len(found) == 1 and not self.is_output(value) else None

    def is_read(self, value: Value) -> bool:
        """Whether a node reads a value."""
        return any(value in self._nodes[user].inputs for user in self._net.successors(value.node))

    def is_output(self, value: Value) -> bool:
        return any(output == value for _, output in self.outputs)

    def left_by(self, nodes: Sequence[Node]) -> list[Value]:
        """The values of some nodes that others read, or that the graph returns."""
        inside = {node.id for node in nodes}
        return [
            value
            for node in nodes
            for value in node.outputs
            if self.is_output(value) or any(user.id not in inside for user, _ in self.users(value))
        ]

    def nodes(self) -> list[Node]:
        """All nodes, each after what it reads, otherwise in program order."""
        if not self._sorted:
            self._sorted = {number: self.node(number) for number in self._in_order()}
        return list(self._sorted.values())

    def weights(self) -> list[Node]:
        return [node for node in self.nodes() if node.op is WEIGHT]

    def loops(self) -> list[Node]:
        return [node for node in self.nodes() if node.op is LOOP]

    def experts(self) -> list[Node]:
        return [node for node in self.nodes() if node.op is EXPERTS]

    def scans(self) -> list[Node]:
        return [node for node in self.nodes() if node.op is SCAN]

    def branches(self) -> list[Node]:
        return [node for node in self.nodes() if node.op is BRANCH]

    def losses(self) -> list[Node]:
        return [node for node in self.nodes() if node.op is LOSSES]

    def walk(self) -> Iterator[Graph]:
        """This graph and the bodies of loops, experts, scans and branches in it, outermost first."""
        yield self
        for node in self.nodes():
            for body in node.bodies:
                yield from body.walk()

    def walk_all(self) -> Iterator[Graph]:
        """The same, and the bodies of what training alone computes, which have none in them."""
        for part in self.walk():
            yield part
            yield from (node.attributes["body"] for node in part.losses())

    def runs(self, times: int = 1, new: float | None = None) -> Iterator[tuple[Graph, int]]:
        """This graph and the bodies in it, each with how often it runs in one forward pass.

        The body of experts runs once for each choice of the tokens; that of a scan counts once, for all of
        them.  Of a branch both run, or only the one for `new` tokens after a cache; infinitely many stand for
        a call without one.
        """
        yield self, times
        for loop in self.loops():
            for number, body in enumerate(loop.bodies):
                yield from body.runs(times * loop.attributes["schedule"].count(number), new)
        for node in self.experts():
            yield from node.bodies[0].runs(times * self.choices(node), new)
        for scan in self.scans():
            yield from scan.bodies[0].runs(times, new)
        for branch in self.branches():
            taken = branch.bodies if new is None else [branch.bodies[new <= branch.attributes["few"]]]
            for body in taken:
                yield from body.runs(times, new)

    def choices(self, experts: Node) -> int:
        """How many of the experts a token chooses."""
        return int(self.type(experts.first).width)

    def depends_on(self, number: int) -> set[int]:
        """Numbers of the nodes that read the node's values, directly or through others."""
        return reached(number, self._net.successors)

    def needed_by(self, number: int) -> set[int]:
        """Numbers of the nodes whose values the node reads, directly or through others."""
        return reached(number, self._net.predecessors)

    def between(self, given: Collection[Value], goals: Iterable[Value]) -> list[Node]:
        """Nodes that compute goals from `given` values; in order, without the weights that they read."""
        return [node for node in self.computing(goals, given) if node.op is not WEIGHT]

    def computing(self, goals: Iterable[Value], given: Collection[Value] = ()) -> list[Node]:
        """Nodes that compute goals from `given` values, weights included; in order."""
        found: set[int] = set()
        waiting = [value for value in goals if value not in given]
        while waiting:
            node = self.node(waiting.pop())
            if node.id not in found:
                found.add(node.id)
                waiting += [each for each in node.operands if each not in given]
        return [node for node in self.nodes() if node.id in found]

    def is_acyclic(self) -> bool:
        try:
            self.nodes()
        except nx.NetworkXUnfeasible:
            return False
        return True

    def add(
        self,
        op: Op,
        inputs: Sequence[Value | None] = (),
        attributes: Mapping[str, Any] | None = None,
        *,
        names: tuple[str, ...] = (),
        span: Span | None = None,
        scope: Scope | None = None,
        order: tuple[int, ...] | None = None,
        path: Path = (),
    ) -> Node:
        """Add a node; its output types are inferred.  Raises `TypeMistake`."""
        attributes = dict(attributes or {})
        types = op.infer_types([self.type(v) if v is not None else None for v in inputs], attributes)
        number = self._next
        self._next += 1
        order = (number,) if order is None else order
        node = Node(number, op, tuple(inputs), attributes, types, names, span, scope, order, path)
        self._enter(node)
        return node

    def add_like(
        self,
        origin: Node,
        op: Op,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        names: tuple[str, ...] = (),
    ) -> Node:
        """Add a node that stands for `origin`: same span, scope and place."""
        return self.add(
            op,
            inputs,
            attributes,
            names=names,
            span=origin.span,
            scope=origin.scope,
            order=origin.order,
            path=origin.path,
        )

    def add_input(self, name: str, type_: TensorType, span: Span | None = None) -> Value:
        node = self.add(INPUT, (), {"type": type_, "name": name}, names=(name,), span=span, order=(-1,))
        self.inputs.append(node.outputs[0])
        return node.outputs[0]

    def update(self, node: Node, **changes: Any) -> Node:
        """Exchange a node for one with other fields under the same number."""
        changed = replace(node, **changes)
        self._nodes[node.id] = changed
        if "inputs" in changes:
            self._net.remove_edges_from(list(self._net.in_edges(node.id)))
            self._connect(changed)
        if "inputs" in changes or "order" in changes:
            self._sorted = {}
        elif self._sorted:
            self._sorted[node.id] = changed
        self.unverified.update((node.id, *self._net.successors(node.id)))
        return changed

    def replace_uses(self, old: Value, new: Value, *, but: Iterable[int] = ()) -> None:
        """Let every reader of `old`, except the nodes `but`, read `new`."""
        spared = set(but)
        for user, _ in self.users(old):
            if user.id not in spared:
                user = self.node(user.id)
                self.update(user, inputs=tuple(new if value == old else value for value in user.inputs))
        self.outputs = [(name, new if value == old else value) for name, value in self.outputs]

    def remove(self, node: Node) -> None:
        """Remove a node that nothing reads."""
        self.unverified.update(self._net.successors(node.id))
        self._net.remove_node(node.id)
        del self._nodes[node.id]
        self._sorted.pop(node.id, None)

    def remove_unread(self, nodes: Sequence[Node]) -> None:
        """Remove those of some nodes, given in order, that nothing reads, or only others of them."""
        for node in reversed(nodes):
            if not any(self.is_read(value) or self.is_output(value) for value in node.outputs):
                self.remove(node)

    def copy(self) -> Graph:
        """A copy that shares no body with this graph."""
        twin = Graph(self.name)
        twin.inputs, twin.outputs = list(self.inputs), list(self.outputs)
        twin._nodes, twin._net, twin._next = dict(self._nodes), self._net.copy(), self._next
        twin.unverified, twin._sorted = set(self.unverified), dict(self._sorted)
        for node in twin.nodes():
            if node.bodies:
                twin.update(node, attributes=node.with_own_bodies().attributes)
        return twin

    def part(
        self,
        outputs: Sequence[tuple[str, Value]],
        given: Sequence[tuple[str, Value]] = (),
        losses: bool = False,
    ) -> Graph:
        """A copy of what computes `outputs`, and `losses` too where they are asked for.

        Values that are `given` become its inputs, by name; without any, it has those of this graph.
        """
        ends = self.losses() if losses else []
        goals = [value for _, value in outputs]
        goals += [value for node in ends for value in node.operands]
        part = Graph(self.name)
        part._next = self._next  # nodes keep their numbers
        stands: dict[Value | None, Value] = {v: part.add_input(name, self.type(v)) for name, v in given}
        computing = self.computing(goals, [value for _, value in given])
        kept = {node.id for node in (*computing, *ends, *([] if given else map(self.node, self.inputs)))}
        for node in self.nodes():
            if node.id in kept:
                inputs = tuple(stands.get(value, value) for value in node.inputs)
                part._enter(replace(node.with_own_bodies(), inputs=inputs))
        part.inputs = part.inputs or list(self.inputs)
        part.outputs = [(name, stands.get(value, value)) for name, value in outputs]
        return part

    def _enter(self, node: Node) -> None:
        self._nodes[node.id] = node
        self._net.add_node(node.id)
        self._connect(node)
        self._sorted = {}
        self.unverified.add(node.id)

    def _connect(self, node: Node) -> None:
        self._net.add_edges_from((value.node, node.id) for value in node.operands)

    def _in_order(self) -> list[int]:
        """Numbers in the order of nodes(): program order where it follows the edges, as it mostly does."""
        orders = {number: (node.order, number) for number, node in self._nodes.items()}
        if all(orders[read] < orders[reader] for read, reader in self._net.edges):
            return sorted(orders, key=orders.__getitem__)
        found = list(nx.lexicographical_topological_sort(self._net, key=orders.__getitem__))
        places = dict(zip(found, itertools.count()))
        latest = 0  # a term may read what those before it noted, and has no edge that says so
        for number in sorted(filter(self._has_losses, found), key=orders.__getitem__):
            latest = max(latest, places[number])
            if self._nodes[number].op is LOSSES:
                places[number] = latest
        return sorted(found, key=lambda number: (places[number], orders[number]))

    def _has_losses(self, number: int) -> bool:
        node = self._nodes[number]
        return node.op is LOSSES or any(part.losses() for body in node.bodies for part in body.walk())
