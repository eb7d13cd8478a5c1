"""Whether ops of a graph compute of a token what the body of `experts` computes of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from archc.ir.graph import Graph
from archc.ir.node import Node, Value, stored_in
from archc.ir.op import OPS, Trait
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.structure import INPUT, WEIGHT
from archc.ir.weights import is_per_expert

CAST_LIKE, MUL = OPS["cast_like"], OPS["mul"]


@dataclass
class Likeness:
    """A comparison, in which what a choice multiplies a row by counts for 1.

    weights: the body's weights, with those of the graph that stand for them
    split:   the dim in which a weight's counterpart is several times as large
    count:   so many times, which is how many experts it takes to compute the same
    factors: the body's inputs that rows are multiplied by
    reason:  why a weight is not like its counterpart
    """

    graph: Graph
    experts: Node
    weights: dict[Value, Value] = field(default_factory=dict)
    split: dict[Value, int] = field(default_factory=dict)
    count: int = 1
    factors: set[Value] = field(default_factory=set)
    reason: str = ""

    def __post_init__(self) -> None:
        (self.body,) = self.experts.bodies
        self.given = dict(zip(self.body.inputs, self.experts.inputs[1:], strict=True))
        kinds = list(zip(self.body.inputs, self.experts.attributes["taken"], strict=True))
        self.choices = {value for value, kind in kinds if kind == "choice"}
        self.tied = {value for value, kind in kinds if kind == "expert"}

    def holds(self, value: Value) -> bool:
        """Whether a value of the graph is what the body gives, or a sum of what several experts give."""
        result = self.body.outputs[0][1]
        return self._alike(result, value) and (self.count == 1 or self._is_sum(result))

    def _alike(self, inner: Value | None, outer: Value | None) -> bool:
        if inner is None or outer is None:
            return inner is outer
        node, other = self.body.node(inner), self.graph.node(outer)
        if inner in self.tied:
            self.reason = "the experts' weights are those of others too"
            return False
        if node.op is INPUT:
            return inner not in self.choices and self.given[inner] == outer
        if node.op is WEIGHT:
            return other.op is WEIGHT and self._are_weights(node, other)
        product = self._product(node)
        if product is not None:
            return self._alike(product, outer)
        same = node.op is other.op and node.attributes == other.attributes and inner.output == outer.output
        return same and any(self._all_alike(node.inputs, order) for order in _orders(other))

    def _all_alike(self, inner: Sequence[Value | None], outer: Sequence[Value | None]) -> bool:
        return len(inner) == len(outer) and all(map(self._alike, inner, outer))

    def _product(self, node: Node) -> Value | None:
        """What a row times its choice's number is of that row, in its own dtype: the row itself."""
        if node.op is CAST_LIKE:
            rows = self._product(self.body.node(node.first))
            return rows if rows is not None and self.body.type(rows) == node.types[0] else None
        if node.op is not MUL:
            return None
        for factor, rows in (node.operands, node.operands[::-1]):
            if (choice := self._choice(factor)) is not None:
                self.factors.add(choice)
                return rows
        return None

    def _choice(self, value: Value) -> Value | None:
        """The body's input that is a choice's number, rounded or as it is."""
        node = self.body.node(value)
        if node.op is CAST_LIKE:
            return self._choice(node.first)
        return value if value in self.choices and node.types[0].width == 1 else None

    def _are_weights(self, inner: Node, outer: Node) -> bool:
        """Whether a weight can be one expert's; otherwise the reason is told."""
        (value,) = inner.outputs
        if value in self.weights:
            return self.weights[value] == outer.outputs[0]
        self.reason = self.reason or self._weights_differ(inner, outer)
        self.weights[value] = outer.outputs[0]
        return not self.reason

    def _weights_differ(self, inner: Node, outer: Node) -> str:
        if not is_per_expert(inner, self.experts.attributes["variable"]):
            return "the experts' weights lie in one tensor of the checkpoint"
        if not self._are_parts(inner, outer):
            return f"its weight is {outer.types[0]}, where an expert's is {inner.types[0]}"
        if len(self.graph.users(outer.outputs[0])) > 1:
            return "a weight is shared with another place"
        if any(str(inner.attributes[name]) != str(outer.attributes[name]) for name in ("init", "trained")):
            return "its weights start out differently, or only some are trained"
        return ""

    def _are_parts(self, inner: Node, outer: Node) -> bool:
        """Whether a weight is as large as an expert's, or as many times as all others, in one dim."""
        own, other = ([stored.held_shape for stored in stored_in(weight)] for weight in (inner, outer))
        if inner.types == outer.types and own == other:
            return True
        (shape, *more), (larger, *others) = own, other
        unlike = len(shape) != len(larger) or inner.types[0].dtype is not outer.types[0].dtype
        longer = [dim for dim, (a, b) in enumerate(zip(shape, larger, strict=False)) if a != b]
        if more or others or unlike or len(longer) != 1:
            return False
        (dim,) = longer
        count, left = larger[dim] // shape[dim], larger[dim] % shape[dim]  # divmod knows no names of sizes
        self.split[inner.outputs[0]] = dim
        self.count = count if self.count == 1 else self.count
        return left == 0 and count == self.count

    def _is_sum(self, result: Value) -> bool:
        """Whether linear maps split by rows make parts of a row, which others, split by columns, add up.

        What lies between must be elementwise, so that each expert computes its own part of it.
        """
        parts, sums = set[Value](), set[Value]()
        for node in self.body.nodes():
            rows = self._product(node)
            read = {value for value in (node.inputs if rows is None else (rows,)) if value is not None}
            if read & sums:
                if rows is None:
                    return False
                sums.update(node.outputs)
            elif node.op is LINEAR and node.inputs[1] in self.split:
                adds = self.split[node.inputs[1]] == 1
                if adds != (node.inputs[0] in parts) or (adds and "offset" in node.named):
                    return False
                (sums if adds else parts).update(node.outputs)
            elif read & parts:
                if rows is None and not (node.op.has(Trait.ELEMENTWISE) or node.op is CAST_LIKE):
                    return False
                parts.update(node.outputs)
        return result in sums


def _orders(node: Node) -> list[tuple[Value | None, ...]]:
    """The orders that a node's operands may have."""
    return [node.inputs, node.inputs[::-1]] if node.op.has(Trait.COMMUTATIVE) else [node.inputs]
