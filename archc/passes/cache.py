"""Which values of earlier tokens decoding keeps: the fewest bytes that all keys and values can be made from.

A minimum cut between what a layer is given and what its attention reads.  Behind the cut may lie what costs
nothing to do for every earlier token again: rearrangements, and linear maps that attention can absorb, where
that pays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from typing import Any

from archc.ir.absorption import is_plain_map
from archc.ir.fixed import Fixed
from archc.ir.graph import Graph, Node, Value
from archc.ir.names import unique
from archc.ir.op import OPS, Op, Trait
from archc.ir.ops.structure import APPEND, RECENT, WEIGHT
from archc.ir.program import KEY_POSITIONS, vocabulary_of
from archc.ir.types import TensorType
from archc.passes.absorb import Absorption, bytes_of
from archc.passes.context import Context, place_of
from archc.passes.fold import canonical_sizes
from archc.passes.keep import keep_fixed

CONCAT, SPLIT = OPS["concat"], OPS["split"]
MERGE_HEADS, SPLIT_HEADS = OPS["merge_heads"], OPS["split_heads"]


def plan_cache(graph: Graph, context: Context) -> None:
    """Put `append` where the fewest bytes of a token are kept, if decoding is possible at all."""
    obstacle = _obstacle(graph)
    if obstacle:
        context.report.remark("cache", f"no cached decoding: {obstacle}")
        return
    fixed = Fixed(graph)
    for part, times in list(graph.runs()):
        readers = [n for n in part.nodes() if n.op.past and not fixed.has_all(part, n.past)]
        if readers:
            planner = _Planner(part, readers, context)
            context.report.remark("cache", planner.describe(times))
            planner.keep()
    keep_fixed(graph, fixed)


def _obstacle(graph: Graph) -> str:
    """Why a token cannot be computed from the past alone, or need not be, or nothing."""
    if not vocabulary_of(graph):
        return "what the model returns is not logits over its tokens"
    fixed = Fixed(graph)
    for part in graph.walk():
        for node in part.nodes():
            if fixed.has_all(part, node.outputs):
                continue
            mask = node.attributes.get("mask")
            if mask is not None and not mask.causal and not fixed.has_all(part, node.past):
                return f"`{mask}` lets tokens see later ones ({place_of(node)})"
            if not (node.op.internal or node.op.past or node.op.has(Trait.PER_TOKEN)):
                return f"`{node.op.name}` looks at other tokens and declares no state ({place_of(node)})"
    return ""


class _Planner:
    """Plans for one graph: `cut` is what is kept, `absorbed` are readers that do linear maps behind it."""

    def __init__(self, graph: Graph, readers: list[Node], context: Context):
        self.graph = graph
        self.readers = readers
        self.context = context
        self.refused: dict[int, str] = {}
        self._slots: set[str] = set()
        self.cut = self._choose()
        self._lengths = self._seen_lengths()

    def _choose(self) -> list[Value]:
        """The cut, with fewer and fewer linear maps behind it until every reader gains by those that are."""
        goals = [value for reader in self.readers for value in reader.past]
        while True:
            cut = self.graph.minimum_cut(goals, partial(_may_lie_behind, maps=self._maps()), self._bytes)
            reasons = {
                reader.id: reason
                for reader in self.readers
                if reader.id not in self.refused and (reason := self._refusal(reader, cut))
            }
            if not reasons:
                return cut
            self.refused.update(reasons)

    def _maps(self) -> set[int]:
        """Linear maps that may lie behind the cut: all that is made of them is read by willing readers."""
        found: set[int] = set()
        unwilling: set[int] = set()
        for reader in self.readers:
            maps = {node.id for node in self._first_maps(reader)}
            found |= maps
            if reader.id in self.refused:
                unwilling |= maps
        return found - unwilling

    def _first_maps(self, reader: Node) -> list[Node]:
        """The last linear maps before what a reader reads of the past."""
        waiting, found = reader.past, []
        while waiting:
            node = self.graph.node(waiting.pop())
            if node.op.has(Trait.SHAPE):
                waiting += [value for value in node.inputs if value is not None]
            elif is_plain_map(node) and self._is_weight(node.inputs[1]):
                found.append(node)
        return found

    def _is_weight(self, value: Value | None) -> bool:
        return value is not None and self.graph.node(value).op is WEIGHT

    def _refusal(self, reader: Node, cut: list[Value]) -> str:
        """Why a reader had better not do the linear maps behind a cut itself, or nothing."""
        absorption = Absorption.behind(self.graph, reader, cut)
        return absorption.obstacle(self.context.target) if absorption else ""

    def _bytes(self, value: Value) -> int:
        return bytes_of(self.graph.type(value))

    def _seen_lengths(self) -> dict[Value, int | None]:
        """How many tokens back what is kept is seen, None for all: the same for all that is read together."""
        lengths = dict.fromkeys(self.cut, 0.0)
        for _ in self.readers:  # as often as it may take to pass a length on
            for reader in self.readers:
                together = [leaf for goal in reader.past for leaf in self._leaves(goal)]
                reach = self._reach(reader) or inf
                lengths.update(dict.fromkeys(together, max(reach, *(lengths[leaf] for leaf in together))))
        return {value: None if length == inf else int(length) for value, length in lengths.items()}

    def _reach(self, reader: Node) -> int | None:
        """How many tokens back a reader sees; all where it adds what was computed for all, and not here."""
        bias = _bias(reader)
        if bias is not None and not self.graph.node(bias).op.has(Trait.PAIRWISE):
            return None
        if "mask" not in reader.attributes:
            return None
        reach: int | None = reader.attributes["mask"].reach
        return reach

    # ----------------------------------------------------------------- report

    def describe(self, times: int) -> str:
        """What is kept, what of it attention takes over, and why it does not where it could."""
        kept = " + ".join(map(self._kept_text, self.cut))
        total = sum(map(self._bytes, self.cut))
        layers = f" in each of {times} layers" if times > 1 else ""
        place = ", ".join(dict.fromkeys(place_of(reader) for reader in self.readers))
        text = f"{place}: decoding keeps {kept}, {total:,} bytes a token{layers}"
        for reader in self.readers:
            absorption = Absorption.behind(self.graph, reader, self.cut)
            if absorption:
                text += (
                    f"; attention absorbs what makes keys and values: {absorption.gain(self.context.target)}"
                )
        for reason in dict.fromkeys(self.refused.values()):
            text += f"; fewer bytes would do, but {reason}"
        return text

    def _kept_text(self, value: Value) -> str:
        length = self._lengths[value]
        last = "" if length is None else f" of the last {length:,} tokens"
        return f"{self._name(value)} {_size(self.graph.type(value))}{last}"

    def _name(self, value: Value) -> str:
        if self.graph.name_of(value):
            return self.graph.name_of(value)
        return next((name for r in self.readers for name in r.op.past if r.operand(name) == value), "a value")

    # ----------------------------------------------------------------- change

    def keep(self) -> None:
        """Put `append` behind the cut, and let readers read what it gives."""
        regions = [self.graph.between(set(self.cut), reader.past) for reader in self.readers]
        made: dict[Value, Value] = {}
        for reader in self.readers:
            joined = self._joined(reader)
            if joined:
                self._append_joined(reader, joined, made)
            for name in reader.op.past:
                self._append_leaves(reader, name, made)
        for reader, region in zip(self.readers, regions, strict=True):
            for node in region:
                self._make_again(node, made)
            self._read(reader, made)
        for region in regions:
            self.graph.remove_unread([node for node in region if node.id in self.graph])

    def _read(self, reader: Node, made: dict[Value, Value]) -> None:
        """Let a reader read what is kept, at the positions that it has."""
        length = self._lengths[self._leaves(reader.past[0])[0]]
        inputs: list[Value | None] = []
        moved: dict[Value, Value] = {}  # what follows from where the keys are
        for operand, value in zip(reader.op.operands, reader.inputs, strict=True):
            if value is not None and operand.name in reader.op.past:
                value = made[value]
            elif value is not None and operand.name == KEY_POSITIONS and length is not None:
                moved[value] = self._add(reader, RECENT, [value], {"length": length}).outputs[0]
                value = moved[value]
            elif value is not None and operand.name == "bias" and length is not None:
                pairs = self.graph.node(value)
                places = [each if each is None else moved.get(each, each) for each in pairs.inputs]
                value = self._add(reader, pairs.op, places, pairs.attributes).outputs[0]
            inputs.append(value)
        bias = _bias(reader)
        self.graph.update(reader, inputs=tuple(inputs))
        if bias is not None:
            self.graph.remove_unread([self.graph.node(bias)])

    def _leaves(self, goal: Value) -> list[Value]:
        """What is kept of that which a value is made of, in order of its columns."""
        if goal in self.cut:
            return [goal]
        inputs = [v for v in self.graph.node(goal).inputs if v is not None and not self._is_weight(v)]
        return list(dict.fromkeys(leaf for value in inputs for leaf in self._leaves(value)))

    def _joined(self, reader: Node) -> list[Value]:
        """The parts of a key that all heads share; as one head, side by side, they are read as they lie."""
        if not self._absorbs(reader):
            return []
        leaves = self._leaves(reader.past[0])
        others = {
            leaf for r in self.readers if r is not reader for goal in r.past for leaf in self._leaves(goal)
        }
        shared = all(_is_one_head(self.graph.type(value)) for value in leaves)
        return leaves if shared and not others & set(leaves) else []

    def _absorbs(self, reader: Node) -> bool:
        region = self.graph.between(set(self.cut), reader.past)
        return any(node.op.has(Trait.LINEAR) for node in region)

    def _append_joined(self, reader: Node, joined: list[Value], made: dict[Value, Value]) -> None:
        """Keep values side by side as one head; `made` gets those of all tokens, apart again."""
        flat = {value for value in joined if len(self.graph.type(value).shape) == 3}
        heads = [
            self._add(reader, SPLIT_HEADS, [value], {"heads": 1}).outputs[0] if value in flat else value
            for value in joined
        ]
        side_by_side = self._add(reader, CONCAT, heads).outputs[0] if len(heads) > 1 else heads[0]
        self._lengths[side_by_side] = self._lengths[joined[0]]
        kept = self._append(reader, side_by_side, "latent", 0)
        sizes = canonical_sizes(tuple(_width(self.graph.type(value)) for value in heads))
        names = tuple(self.graph.name_of(value) for value in joined)
        apart = (
            self._add(reader, SPLIT, [kept], {"sizes": sizes}, names).outputs if len(heads) > 1 else [kept]
        )
        for value, part in zip(joined, apart, strict=True):
            made[value] = self._add(reader, MERGE_HEADS, [part]).outputs[0] if value in flat else part

    def _append_leaves(self, reader: Node, operand: str, made: dict[Value, Value]) -> None:
        """Keep, each in a slot of its own, what one operand is made of."""
        goal = reader.operand(operand)
        leaves = self._leaves(goal) if goal is not None else []
        slot = operand if len(leaves) == 1 and not self._has_map(leaves, goal) else "latent"
        for value in leaves:
            if value not in made:
                made[value] = self._append(reader, value, slot, reader.op.past.index(operand))

    def _has_map(self, leaves: list[Value], goal: Value | None) -> bool:
        assert goal is not None
        return any(node.op.has(Trait.LINEAR) for node in self.graph.between(leaves, [goal]))

    def _append(self, reader: Node, value: Value, slot: str, place: int) -> Value:
        name = self.graph.name_of(value) or slot
        attributes = {"slot": self._unique(slot), "length": self._lengths[value]}
        return self._add(reader, APPEND, [value], attributes, (name,), place).outputs[0]

    def _unique(self, slot: str) -> str:
        """A name for what is kept, unlike the others of the same layer; it joins them."""
        name = unique(slot, self._slots)
        self._slots.add(name)
        return name

    def _make_again(self, node: Node, made: dict[Value, Value]) -> None:
        """Compute what a node behind the cut makes for all tokens."""
        if node.outputs[0] in made:
            return
        inputs = [made.get(value, value) if value is not None else None for value in node.inputs]
        again = self.graph.add_like(node, node.op, inputs, node.attributes, names=node.names)
        made.update(zip(node.outputs, again.outputs, strict=True))

    def _add(
        self,
        reader: Node,
        op: Op,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Any] | None = None,
        names: tuple[str, ...] = (),
        place: int = 0,
    ) -> Node:
        """A node that stands before a reader."""
        return self.graph.add(
            op,
            inputs,
            attributes,
            names=names,
            span=reader.span,
            scope=reader.scope,
            order=(*reader.order[:-1], reader.order[-1] - 1, place),
            path=reader.scope.path if reader.scope else (),
        )


def _bias(reader: Node) -> Value | None:
    """What a reader adds to its scores, if it can."""
    return reader.operand("bias") if any(each.name == "bias" for each in reader.op.operands) else None


def _may_lie_behind(node: Node, maps: set[int]) -> bool:
    return node.op.has(Trait.SHAPE) or node.id in maps


def _is_one_head(type_: TensorType) -> bool:
    return len(type_.shape) == 3 or type_.shape[2] == 1


def _width(type_: TensorType) -> int:
    assert isinstance(type_.width, int)
    return type_.width


def _size(type_: TensorType) -> str:
    """What one token has of a value: `8 x 128`."""
    return " x ".join(str(dim) for dim in type_.shape[2:])
