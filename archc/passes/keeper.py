"""Puts an `append` into the graph for each value of the cut, where a model keeps values of earlier tokens.

What attention reads is then computed from the kept values of all tokens so far.  A layer that reuses values
of an earlier layer is given what that layer keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archc.ir.copier import Copier
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value
from archc.ir.op import Op
from archc.ir.ops.shape import CONCAT, MERGE_HEADS, SPLIT, SPLIT_HEADS
from archc.ir.ops.structure import APPEND, LOOP, RECENT
from archc.ir.program import KEY_POSITIONS
from archc.ir.types import TensorType
from archc.passes.carried import carry_also, free_name, leave_also
from archc.passes.cut import Cut
from archc.passes.fold import canonical_sizes
from archc.passes.standing import Place


class Keeper:
    """Puts `append` into a graph, and into the layers of its loops.

    given: what the graph's inputs are of all tokens so far, where they are kept by an earlier layer
    """

    def __init__(self, graph: Graph, cut: Cut, given: Mapping[Value, Value]):
        self.graph = graph
        self.cut = cut
        self._copier = Copier(graph, given)
        self._made = self._copier.values  # values of all tokens so far, by those of the new tokens
        self._slots: set[str] = set()
        self._again: set[int] = set()  # nodes that have been computed again, for all tokens

    def keep(self) -> None:
        """Let every reader of the past read what is kept of it."""
        readers = {node.id for part, node in self.cut.readers if part is self.graph}
        for node in self.graph.nodes():
            if node.id in readers:
                self._keep_for(node)
            elif node.op is LOOP:
                self._enter(node)

    def _keep_for(self, reader: Node) -> None:
        """Keep what a reader reads, and let it read that."""
        joined = self._joined(reader)
        if joined:
            self._append_joined(reader, joined)
        for place, name in enumerate(reader.op.past):
            if (goal := reader.named.get(name)) is not None:
                self._append_leaves(goal, reader, place)
        self._make_again(reader.past)
        self._read(reader)

    def _read(self, reader: Node) -> None:
        """Let a reader read what is kept, at the positions that it has."""
        length = self.cut.length(self.cut.origins(self.graph, reader.past[0])[0])
        inputs: list[Value | None] = []
        moved: dict[Value, Value] = {}  # positions of keys in a ring, by those of all keys
        for operand, value in zip(reader.op.operands, reader.inputs, strict=True):
            if value is not None and operand.name in reader.op.past:
                value = self._made[value]
            elif value is not None and operand.name == KEY_POSITIONS and length is not None:
                moved[value] = self._add(reader, RECENT, [value], {"length": length}).outputs[0]
                value = moved[value]
            elif value is not None and operand.name == "bias" and length is not None:
                pairs = self.graph.node(value)
                places = [each if each is None else moved.get(each, each) for each in pairs.inputs]
                value = self._add(reader, pairs.op, places, pairs.attributes).outputs[0]
            inputs.append(value)
        bias = reader.named.get("bias")
        self.graph.update(reader, inputs=tuple(inputs))
        if bias is not None:
            self.graph.remove_unread([self.graph.node(bias)])

    def _leaves(self, goal: Value) -> list[Value]:
        return self.cut.leaves(self.graph, goal)

    def _make_again(self, goals: Sequence[Value]) -> None:
        """Compute for all tokens what lies between what is kept and some values."""
        for node in self.graph.between(self.cut.here(self.graph), goals):
            if node.id not in self._again:
                inputs = [v if v is None else self._made.get(v, v) for v in node.inputs]
                self._copier.copy(node, inputs, order=node.order)
                self._again.add(node.id)

    def _joined(self, reader: Node) -> list[Value]:
        """The parts of a key that all heads share; as one head, side by side, they are read as they lie."""
        if not self.cut.has_map(self.graph, reader.past):
            return []
        leaves = self._leaves(reader.past[0])
        shared = all(_is_one_head(self.graph.type(value)) for value in leaves)
        alone = set(leaves) <= set(self.cut.kept_in(self.graph)) and not self._read_elsewhere(reader, leaves)
        return leaves if shared and alone else []

    def _read_elsewhere(self, reader: Node, leaves: Sequence[Value]) -> bool:
        """Whether another reader, here or in a later layer, reads some of what one reads."""
        places = {Place(self.graph, leaf) for leaf in leaves}
        return any(
            places & set(self.cut.origins(graph, goal))
            for graph, other in self.cut.readers
            if (graph, other.id) != (self.graph, reader.id)
            for goal in other.past
        )

    def _append_joined(self, reader: Node, joined: list[Value]) -> None:
        """Keep values side by side as one head, and split them again for what is computed of all tokens."""
        flat = {value for value in joined if len(self.graph.type(value).shape) == 3}
        heads = [
            self._add(reader, SPLIT_HEADS, [value], {"heads": 1}).outputs[0] if value in flat else value
            for value in joined
        ]
        side_by_side = self._add(reader, CONCAT, heads).outputs[0] if len(heads) > 1 else heads[0]
        length = self.cut.length(Place(self.graph, joined[0]))
        kept = self._append(reader, side_by_side, "latent", 0, length)
        sizes = canonical_sizes(tuple(self.graph.type(value).columns for value in heads))
        names = tuple(self.graph.name_of(value) for value in joined)
        apart = (
            self._add(reader, SPLIT, [kept], {"sizes": sizes}, names).outputs if len(heads) > 1 else [kept]
        )
        for value, part in zip(joined, apart, strict=True):
            merged = self._add(reader, MERGE_HEADS, [part]).outputs[0] if value in flat else part
            self._made[value] = merged

    def _enter(self, loop: Node) -> None:
        """Keep values in the layers of a loop, and pass to them what an earlier layer keeps."""
        places = self._taken_over(loop)
        past = {place: self._past_of(loop.operands[place], loop) for place in places}
        again = [place for place in places if _is_carried(loop, place)]
        entering = loop.attributes["entering"]
        left = [entering[place] for place in again]
        left += [name for name in self._read_after(loop) if name not in left]
        names = [free_name(f"past_{name}", loop) for name in left]
        for body in loop.bodies:
            keeper = Keeper(body, self.cut, self._give(body, past, again, len(entering)))
            keeper.keep()
            body.outputs += zip(names, map(keeper.leaving, left), strict=True)
        self._hand_on(loop, past, again, left, names)

    def _taken_over(self, loop: Node) -> list[int]:
        """Places of what layers take over from earlier ones, among a loop's operands."""
        bodies = loop.bodies
        taken = self.cut.taken
        return [
            p for p in range(len(loop.inputs)) if any(Place(body, body.inputs[p]) in taken for body in bodies)
        ]

    def _read_after(self, loop: Node) -> list[str]:
        """The names of values kept by a loop's layers that are read after the loop."""
        results = zip(loop.attributes["carried"], loop.outputs, strict=True)
        return [name for name, value in results if Place(self.graph, value) in self.cut.taken]

    def _give(
        self, body: Graph, past: Mapping[int, Value], again: Sequence[int], entering: int
    ) -> dict[Value, Value]:
        """Add inputs for values of all tokens so far to a layer; found by the inputs for the new tokens."""
        inputs = list(body.inputs)
        given: dict[Value, Value] = {}
        for place, value in past.items():
            name = body.name_of(inputs[place])
            given[inputs[place]] = body.add_input(name, self.graph.type(value), body.node(inputs[place]).span)
        for number, place in enumerate(again):
            body.inputs.remove(given[inputs[place]])
            body.inputs.insert(entering + number, given[inputs[place]])
        return given

    def _hand_on(
        self,
        loop: Node,
        past: Mapping[int, Value],
        again: Sequence[int],
        left: Sequence[str],
        names: Sequence[str],
    ) -> None:
        """Let a loop take in and leave what its layers do now, under the names of the spec."""
        carried = loop.attributes["carried"]
        results = [loop.outputs[carried.index(name)] for name in left]
        spoken = loop.names
        loop = carry_also(self.graph, loop, names[: len(again)], [past[place] for place in again])
        types = [loop.bodies[0].type(value) for _, value in loop.bodies[0].outputs[len(loop.types) :]]
        loop = leave_also(self.graph, loop, names[len(again) :], types)
        captured = [value for place, value in past.items() if place not in again]
        self.graph.update(loop, inputs=(*loop.inputs, *captured), names=(*spoken, *left))
        self._made.update(zip(results, loop.outputs[len(carried) :], strict=True))

    def leaving(self, name: str) -> Value:
        """An output of the graph, of all tokens so far."""
        value = dict(self.graph.outputs)[name]
        return self._past_of(value, self.graph.node(value))

    def _past_of(self, value: Value, before: Node) -> Value:
        """A value for all tokens so far, computed before a node."""
        self._append_leaves(value, before, 0)
        self._make_again([value])
        return self._made[value]

    def _append_leaves(self, goal: Value, before: Node, place: int) -> None:
        """Keep, each in a slot of its own, what a value is made of."""
        for leaf in self._leaves(goal):
            if leaf not in self._made:
                kept = Place(self.graph, leaf)
                self._made[leaf] = self._append(
                    before, leaf, self.cut.slot(kept), place, self.cut.length(kept)
                )

    def _append(self, before: Node, value: Value, slot: str, place: int, length: int | None) -> Value:
        """Keep a value, in a slot of a name that no other of the layer has."""
        name = self.graph.name_of(value) or slot
        slot = unique(slot, self._slots)
        self._slots.add(slot)
        attributes = {"slot": slot, "length": length}
        return self._add(before, APPEND, [value], attributes, (name,), place).outputs[0]

    def _add(
        self,
        before: Node,
        op: Op,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Any] | None = None,
        names: tuple[str, ...] = (),
        place: int = 0,
    ) -> Node:
        """A node that stands before another."""
        return self.graph.add(
            op,
            inputs,
            attributes,
            names=names,
            span=before.span,
            scope=before.scope,
            order=(*before.order[:-1], before.order[-1] - 1, place),
            path=before.path,
        )


def _is_carried(loop: Node, place: int) -> bool:
    """Whether an operand of a loop is the start of a value that its layers carry."""
    entering, carried = loop.attributes["entering"], loop.attributes["carried"]
    return (
        len(loop.attributes["schedule"]) > 1
        and entering[place : place + 1] != ()
        and entering[place] in carried
    )


def _is_one_head(type_: TensorType) -> bool:
    return len(type_.shape) == 3 or type_.shape[2] == 1
