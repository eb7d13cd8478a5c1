"""Which values of earlier tokens decoding keeps: the fewest bytes from which all keys and values can be made.

It is a minimum cut between a model's inputs and what its attention reads, through all layers.  Beyond the cut
may lie only what costs nothing to repeat for every earlier token: rearrangements; what attention can absorb,
where that pays, which are linear maps and what joins their results to others; and edges from one layer to
another, so that nothing is kept twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from archc.ir.absorption import is_plain_map
from archc.ir.graph import Graph
from archc.ir.minimum_cut import minimum_cut
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.shape import CONCAT
from archc.ir.ops.structure import INPUT, LOOP, WEIGHT
from archc.ir.program import KEY_POSITIONS, POSITIONS
from archc.ir.types import DType
from archc.passes.absorb import Absorption, bytes_of
from archc.passes.standing import Place, Standing
from archc.target import Target


class Reader(NamedTuple):
    """A node that reads the past, with its graph."""

    graph: Graph
    node: Node

    @property
    def goals(self) -> list[Place]:
        return [Place(self.graph, value) for value in self.node.past]


class Cut:
    """What is kept, and what follows from it.

    kept:    the cut, in program order
    taken:   inputs of layers, and results of loops, that come as they are kept elsewhere
    refused: why a reader should not absorb its linear maps, by its graph and number
    """

    def __init__(self, root: Graph, readers: Sequence[Reader], target: Target):
        self.readers = list(readers)
        self.refused: dict[tuple[Graph, int], str] = {}
        self.kept: dict[Place, None] = {}
        self.taken: set[Place] = set()
        self._willing: set[tuple[Graph, int]] = set()  # maps and joins that may lie beyond the cut
        self._target = target
        self._times = dict(root.runs())
        self._order = {graph: number for number, graph in enumerate(self._times)}
        self._standing = Standing(root)
        self._choose()
        self._origins = {
            goal: [each for each in self._computed_from_kept([goal]) if each in self.kept]
            for reader in self.readers
            for goal in reader.goals
        }
        self._lengths = self._seen_lengths()
        self._slots = self._named()

    def here(self, graph: Graph) -> list[Value]:
        """What one graph has of the past: what it keeps, in program order, and what it takes over."""
        taken = [place.value for place in self.taken if place.graph is graph]
        return [*self.kept_in(graph), *sorted(taken)]

    def kept_in(self, graph: Graph) -> list[Value]:
        """What one graph keeps, in program order."""
        return [place.value for place in self.kept if place.graph is graph]

    def leaves(self, graph: Graph, goal: Value) -> list[Value]:
        """Those values of the past in a graph that a value is made of, in the order of its columns."""
        if Place(graph, goal) in self.taken or Place(graph, goal) in self.kept:
            return [goal]
        inputs = [v for v in graph.node(goal).operands if graph.node(v).op is not WEIGHT]
        return list(dict.fromkeys(leaf for value in inputs for leaf in self.leaves(graph, value)))

    def has_map(self, graph: Graph, goals: Sequence[Value]) -> bool:
        """Whether a linear map lies between what a graph has of the past and some values."""
        return any(node.op.has(Trait.LINEAR) for node in graph.between(self.here(graph), goals))

    def length(self, place: Place) -> int | None:
        """How many tokens back a kept value is read, None for all."""
        return self._lengths[place]

    def slot(self, place: Place) -> str:
        """The name of a kept value's slot: that of the operand that it is, or `latent`."""
        return self._slots[place]

    def origins(self, graph: Graph, goal: Value) -> list[Place]:
        """The kept values that an operand of a reader is made of."""
        return self._origins[Place(graph, goal)]

    def _choose(self) -> None:
        """Cut, and again with fewer maps and joins beyond the cut, until every reader gains by the rest."""
        goals = [goal for reader in self.readers for goal in reader.goals]
        while True:
            self._willing = self._willing_work()
            kept = minimum_cut(goals, self._sources, self._weight)
            self.kept = dict.fromkeys(sorted(kept, key=self._program_order))
            on_the_way = self._computed_from_kept(goals).keys() - self.kept.keys()
            self.taken = {place for place in on_the_way if place.graph.node(place.value).op in (INPUT, LOOP)}
            reasons = {
                (graph, node.id): reason
                for graph, node in self.readers
                if (graph, node.id) not in self.refused and (reason := self._refusal(graph, node))
            }
            if not reasons:
                return
            self.refused.update(reasons)

    def _program_order(self, place: Place) -> tuple[int, tuple[int, ...], Value]:
        return self._order[place.graph], place.graph.node(place.value).order, place.value

    def _computed_from_kept(self, goals: Sequence[Place]) -> dict[Place, None]:
        """All that goals are made of, back to the cut and with it."""
        found: dict[Place, None] = {}
        waiting = list(goals)
        while waiting:
            place = waiting.pop()
            if place not in found:
                found[place] = None
                waiting += [] if place in self.kept else self._sources(place)
        return found

    def _sources(self, place: Place) -> list[Place]:
        """What a value can be made of at no cost; empty where there is none."""
        graph, value = place
        node = graph.node(value)
        if node.op is INPUT:
            return self._standing.entered.get(place, [])
        if node.op is LOOP:
            return [Place(body, body.outputs[value.output][1]) for body in node.bodies]
        free = node.op.has(Trait.SHAPE) and node.op is not CONCAT
        if not free and (graph, node.id) not in self._willing:
            return []
        return [Place(graph, each) for each in node.operands if graph.node(each).op is not WEIGHT]

    def _weight(self, place: Place) -> int:
        """The bytes of one token's value, over all runs of its graph."""
        return bytes_of(place.graph.type(place.value)) * self._times[place.graph]

    def _willing_work(self) -> set[tuple[Graph, int]]:
        """Maps and joins that may lie beyond the cut: all that is made of them is read by willing readers."""
        found: set[tuple[Graph, int]] = set()
        unwilling: set[tuple[Graph, int]] = set()
        for graph, reader in self.readers:
            work = {(graph, node.id) for node in _last_work(graph, reader)}
            found |= work
            if (graph, reader.id) in self.refused:
                unwilling |= work
        return found - unwilling

    def _refusal(self, graph: Graph, reader: Node) -> str:
        """Why a reader should not absorb what lies beyond the cut; "" if it should, or nothing does."""
        absorption = Absorption.of(graph, reader, self.here(graph))
        if absorption:
            return absorption.obstacle(self._target)
        joins = [node for node in graph.between(self.here(graph), reader.past) if node.op is CONCAT]
        return f"`{joins[0].op.name}` would join them again with each token" if joins else ""

    def _seen_lengths(self) -> dict[Place, int | None]:
        """How many tokens back kept values are read: equally far for those that are read together."""
        lengths: dict[Place, float] = dict.fromkeys(self.kept, 0)
        read = [
            (self._reach(reader), [origin for goal in reader.goals for origin in self._origins[goal]])
            for reader in self.readers
        ]
        before: dict[Place, float] = {}
        while before != lengths:
            before = dict(lengths)
            for reach, together in read:
                longest = max(reach, *(lengths[origin] for origin in together))
                lengths.update(dict.fromkeys(together, longest))
        return {place: length if isinstance(length, int) else None for place, length in lengths.items()}

    def _reach(self, reader: Reader) -> float:
        """How many tokens back a reader sees.

        All of them where it adds a bias that was computed for all elsewhere, where it reads whole numbers,
        where its position may lie before that of its token, and where keys have others than their tokens.
        """
        graph, node = reader
        bias, positions = node.named.get("bias"), node.named.get(POSITIONS)
        if bias is not None and not graph.node(bias).op.has(Trait.PAIRWISE):
            return inf
        if positions is None or not self._standing.never_before(Place(graph, positions)):
            return inf
        keys = node.named.get(KEY_POSITIONS)
        if keys is not None and not self._standing.is_own(Place(graph, keys)):
            return inf
        if any(graph.type(value).dtype is DType.I64 for value in node.past):
            return inf
        return node.op.reach(node.attributes) or inf

    def _named(self) -> dict[Place, str]:
        names: dict[Place, str] = {}
        for graph, node in self.readers:
            for operand in node.op.past:
                if (goal := node.named.get(operand)) is not None:
                    single = len(self.leaves(graph, goal)) == 1 and not self.has_map(graph, [goal])
                    for origin in self.origins(graph, goal):
                        names.setdefault(origin, operand if single else "latent")
        return names


def _last_work(graph: Graph, reader: Node) -> list[Node]:
    """The last linear maps before what a reader reads of the past, and what joins their results to others."""
    waiting, found = reader.past, []
    while waiting:
        node = graph.node(waiting.pop())
        if node.op.has(Trait.SHAPE):
            waiting += node.operands
            found += [node] if node.op is CONCAT else []
        elif is_plain_map(node) and graph.node(node.operands[1]).op is WEIGHT:
            found.append(node)
    return found
