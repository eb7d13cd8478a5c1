"""`experts` become straight-line ops: choices sorted by expert, grouped linears over all rows, one sum.

The body is inlined into the graph around it, each op working on the rows of all experts at once.  The weights
or tables of experts become a stack of all of them, [count, ...]; the tensors of checkpoints stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archc.ir.copier import Copier
from archc.ir.graph import Graph
from archc.ir.node import Node, Value, shared_in
from archc.ir.op import Op, Trait
from archc.ir.ops.experts import (
    AT_CHOICE,
    BY_CHOICE,
    COMBINE,
    DISPATCH,
    GROUPED_LINEAR,
    OF_EXPERT,
    ROW_OF_EXPERT,
    SORT_CHOICES,
    WITH_SHARED,
)
from archc.ir.ops.linear import EMBEDDING, LINEAR
from archc.ir.ops.shape import SPLIT_HEADS
from archc.ir.ops.structure import CONSTANT, EXPERTS, INPUT, WEIGHT
from archc.ir.types import TensorType
from archc.passes.context import Context, made_by, place_of, remaining
from archc.passes.own import dims_between, obstacle_of, own_values


def dispatch_experts(graph: Graph, context: Context) -> None:
    """Sort the tokens' choices, and compute all experts' rows together."""
    for part in graph.walk():
        for node in remaining(part, EXPERTS):
            obstacle = dispatch_obstacle(node)
            if obstacle:
                context.report.remark("dispatch", f"experts ({place_of(node)}) run one by one: {obstacle}")
            else:
                count, choices = node.attributes["count"], part.type(node.first).width
                become = _what_they_become(node)
                _Dispatch(part, node).run()
                context.report.remark(
                    "dispatch", f"{choices} of {count} experts ({place_of(node)}) are {become}"
                )


def dispatch_obstacle(node: Node) -> str:
    """Why a body cannot be computed for all experts together, or nothing."""
    (body,) = node.bodies
    return obstacle_of(body, _weights(node))


def _what_they_become(node: Node) -> str:
    """Products or lookups of all experts at once, as a report tells it."""
    (body,) = node.bodies
    ops = {each.op for each in body.nodes()}
    return "lookups in one table" if EMBEDDING in ops and LINEAR not in ops else "grouped linears"


def _weights(node: Node) -> set[Value]:
    """What stands in a body for the weights of its expert: weights, and what is taken of those of all."""
    (body,) = node.bodies
    taken = zip(body.inputs, node.attributes["taken"], strict=True)
    own = {value for weight in body.weights() for value in weight.outputs}
    return own | {value for value, kind in taken if kind == "expert"}


class _Dispatch:
    """One region, taken apart.  `values` are what stands in the graph for values of the body."""

    def __init__(self, graph: Graph, node: Node):
        self.graph = graph
        self.node = node
        (self.body,) = node.bodies
        self.chosen = node.first
        self.copier = Copier(graph)
        self.values = self.copier.values
        self.weights = _weights(node)
        self.own = own_values(self.body, self.weights)
        self.count = 0

    def run(self) -> None:
        graph, node = self.graph, self.node
        shared = made_by(graph, self.chosen, WITH_SHARED)
        settings = {
            "count": node.attributes["count"],
            "shared": shared.attributes["count"] if shared is not None else 0,
        }
        sort = self._add(node, SORT_CHOICES, [self.chosen, None], settings, ("order", "places", "ends"))
        self.order, self.places, self.ends = sort.outputs
        for value, outer, kind in zip(
            self.body.inputs, node.operands[1:], node.attributes["taken"], strict=True
        ):
            self.values[value] = self._taken(value, outer, kind)
        for each in self.body.nodes():
            if each.op is not INPUT:
                self._move(each)
        result = self.values[self.body.outputs[0][1]]
        if node.attributes["apart"]:
            total = self._add(node, BY_CHOICE, [result, self.places], {}, node.names)
        else:
            total = self._add(node, COMBINE, [result, self.places, None], {}, node.names)
        graph.replace_uses(node.outputs[0], total.outputs[0])
        graph.remove(node)
        taken = [graph.node(self.values[value]) for value in self.body.inputs]
        graph.remove_unread([each for each in taken if each.op in (DISPATCH, AT_CHOICE)])

    def _taken(self, value: Value, outer: Value, kind: str) -> Value:
        """The rows of a value from outside."""
        origin = self.body.node(value)
        if kind == "token":
            return self._add(origin, DISPATCH, [outer, self.order, self.places], {}).outputs[0]
        if kind == "choice":
            return self._add(origin, AT_CHOICE, [outer, self.order], {}).outputs[0]
        return outer

    def _move(self, node: Node) -> None:
        """Write a node of the body into the graph."""
        if node.op is WEIGHT:
            moved = self._add(node, WEIGHT, [], self._stacked(node))
        elif node.op is LINEAR and node.inputs[1] in self.weights:
            x, weight, offset = (self._value(value) for value in node.inputs)
            moved = self._add(node, GROUPED_LINEAR, [x, weight, self.ends, offset], {}, node.names)
        elif node.op is EMBEDDING and node.inputs[1] in self.weights:
            index, table = (self._value(value) for value in node.inputs)
            moved = self._add(node, ROW_OF_EXPERT, [index, table, self.ends, self.order], {}, node.names)
        elif choices := self._choices_of(node):
            before = self._copy(node, choices)
            moved = self._add(node, AT_CHOICE, [before.outputs[0], self.order], {})
        else:
            moved = self._copy(node, [self._row_of(value, node) for value in node.inputs])
        self.copier.stand_for(node, moved)

    def _choices_of(self, node: Node) -> list[Value]:
        """What an elementwise op, or a cast, of numbers of choices reads of them before they are sorted.

        Such as a weight that is rounded: it stays the router's.  Empty where the op reads anything else.
        """
        makers = [self.graph.node(self.values[value]) for value in node.operands]
        found: list[Value] = []
        for operand, maker in zip(node.op.operands, makers, strict=False):
            is_number = maker.op is AT_CHOICE and maker.types[0].width == 1
            if maker.op is CONSTANT:
                found += maker.outputs
            elif is_number or (maker.op is DISPATCH and operand.name in node.op.models):
                found += filter(None, maker.inputs[:1])
            else:
                return []
        works_alone = node.op.has(Trait.ELEMENTWISE) or node.op.models
        return found if works_alone and any(maker.op is AT_CHOICE for maker in makers) else []

    def _stacked(self, weight: Node) -> dict[str, Any]:
        """The attributes of the weights of all experts."""
        count, type_, shared = self.node.attributes["count"], weight.types[0], shared_in(weight)
        experts = self.node.attributes["variable"], count - (shared.count if shared else 0)
        stacked = TensorType((count, *type_.shape), type_.dtype)
        return {**weight.attributes, "type": stacked, "experts": experts}

    def _value(self, value: Value | None) -> Value | None:
        return self.values[value] if value is not None else None

    def _row_of(self, value: Value | None, user: Node) -> Value | None:
        """A value for each row that an op reads: of what experts have of their own, each row's."""
        if value is None or value not in self.own:
            return self._value(value)
        origin, row = self.body.node(value), self.values[value]
        if value in self.weights:
            row = self._add(origin, OF_EXPERT, [row, self.ends, self.order], {}).outputs[0]
        for _ in range(dims_between(self.body, user, value)):
            row = self._add(origin, SPLIT_HEADS, [row], {"heads": 1}).outputs[0]
        return row

    def _add(
        self,
        origin: Node,
        op: Op,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Any],
        names: tuple[str, ...] = (),
    ) -> Node:
        place = self._next_place()
        return self.graph.add(
            op, inputs, attributes, names=names, span=origin.span, path=origin.path, **place
        )

    def _copy(self, node: Node, inputs: Sequence[Value | None]) -> Node:
        return self.copier.copy(node, inputs, **self._next_place())

    def _next_place(self) -> dict[str, Any]:
        """Where the next node goes: after those before it, in the place of the region."""
        self.count += 1
        return {"scope": self.node.scope, "order": (*self.node.order, self.count)}
