"""Finds a rule's decomposition in a graph, or says why it is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from archc.ir.decomposition import AttributeVar, OperandRef, Ref, Step, StepRef
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.structure import CONSTANT, INPUT, LOOP, WEIGHT
from archc.ir.records import attribute_text
from archc.ir.rule import Rule
from archc.passes.context import place_of


@dataclass(frozen=True)
class Match:
    """Graph nodes for a rule's steps, values for its operands and attributes."""

    nodes: Mapping[int, int] = field(default_factory=dict)
    operands: Mapping[str, Value | None] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Failure:
    """The attempt that came furthest, and what stopped it there."""

    depth: int = -1
    reason: str = ""

    def note(self, match: Match, reason: str) -> None:
        if len(match.nodes) > self.depth:
            self.depth, self.reason = len(match.nodes), reason


class Matcher:
    """Matches one rule in one graph."""

    def __init__(self, rule: Rule, graph: Graph):
        self.rule = rule
        self.graph = graph
        self.failure = Failure()

    def match(self, root: Node) -> Match | None:
        """The match whose root step is a given node; `failure` says why there is none."""
        self.failure = Failure()
        for match in self._step(self.rule.root, root.id, Match()):
            for complete in self._complete(match):
                if self._is_legal(complete):
                    return complete
        return None

    def _complete(self, match: Match) -> Iterator[Match]:
        """Find nodes for the outputs that the root does not reach."""
        missing = [output.step for output in self.rule.outputs if output.step not in match.nodes]
        if not missing:
            yield match
            return
        step = missing[0]
        for candidate in self._candidates(step, match):
            for found in self._step(step, candidate.id, match):
                yield from self._complete(found)
        self.failure.note(match, f"there is no second `{self.rule.steps[step].op.name}` beside it")

    def _candidates(self, step: int, match: Match) -> list[Node]:
        """Nodes of a step's op that follow from what is matched already, in as many steps as in the rule."""
        known = [value for value in match.operands.values() if value is not None]
        known += [value for number in match.nodes.values() for value in self.graph.node(number).outputs]
        found: dict[int, Node] = {}
        for _ in range(self._distance(step, match)):
            found = {user.id: user for value in known for user, _ in self.graph.users(value)}
            known = [value for user in found.values() for value in user.outputs]
        wanted = self.rule.steps[step].op
        return sorted((n for n in found.values() if n.op is wanted), key=lambda n: (n.order, n.id))

    def _distance(self, step: int, match: Match) -> int:
        """How many steps lead from what is matched already to a step, itself included."""
        inputs = self.rule.steps[step].inputs
        if any(isinstance(ref, OperandRef) and ref.name in match.operands for ref in inputs):
            return 1
        others = [ref.step for ref in inputs if isinstance(ref, StepRef)]
        if any(other in match.nodes for other in others):
            return 1
        return 1 + min((self._distance(other, match) for other in others), default=0)

    def _value(self, ref: Ref, value: Value | None, match: Match, reader: str) -> Iterator[Match]:
        """Match a reference of the rule with a value of the graph."""
        if isinstance(ref, StepRef):
            made_by = self.graph.node(value).op if value is not None else None
            wanted = self.rule.steps[ref.step].op
            if value is None or (made_by is wanted and value.output != ref.output):
                self.failure.note(match, f"{reader} reads another output of `{wanted.name}`, or none")
            else:
                yield from self._step(ref.step, value.node, match, reader)
        elif isinstance(ref, OperandRef):
            yield from self._operand(ref.name, value, match)
        elif ref is None:
            if value is None:
                yield match
        else:
            yield from self._number(ref, value, match)

    def _operand(self, name: str, value: Value | None, match: Match) -> Iterator[Match]:
        if name in match.operands:
            if match.operands[name] == value:
                yield match
            else:
                self.failure.note(match, f"its two uses of `{name}` differ")
        elif name in self.rule.weights and value is not None and not self._is_weight(value):
            self.failure.note(match, f"`{name}` is computed, not a parameter")
        elif value is not None or name in self.rule.weights or name in self.rule.optional:
            yield Match(match.nodes, {**match.operands, name: value}, match.attributes)

    def _is_weight(self, value: Value) -> bool:
        """Whether a value is a parameter, given from outside, or the parameter of a loop's last layer."""
        node = self.graph.node(value)
        if node.op is LOOP:
            left = [(body, body.outputs[value.output][1]) for body in node.bodies]
            return all(body.node(inner).op is WEIGHT for body, inner in left)
        return node.op is WEIGHT or value in self.graph.inputs

    def _number(self, ref: AttributeVar | float, value: Value | None, match: Match) -> Iterator[Match]:
        node = self.graph.node(value) if value is not None else None
        if node is None or node.op is not CONSTANT:
            self.failure.note(match, "a number is computed where the rule has a constant")
        elif isinstance(ref, AttributeVar):
            yield from self._attributes({"value": ref}, node, match)
        elif node.attributes["value"] == ref:
            yield match

    def _step(self, step: int, number: int, match: Match, reader: str = "") -> Iterator[Match]:
        """Match a step of the rule with a node."""
        if step in match.nodes:
            if match.nodes[step] == number:
                yield match
            return
        node, pattern = self.graph.node(number), self.rule.steps[step]
        if node.op is not pattern.op:
            self.failure.note(match, f"{reader} reads {_told(node)}, not `{pattern.op.name}`")
            return
        if number in match.nodes.values():
            return
        if len(node.inputs) != len(pattern.inputs):
            self.failure.note(match, f"`{node.op.name}` has {len(node.inputs)} operands")
            return
        begun = Match({**match.nodes, step: number}, match.operands, match.attributes)
        for bound in self._attributes(pattern.attributes, node, begun):
            for order in _operand_orders(pattern):
                inputs = [node.inputs[place] for place in order]
                yield from self._inputs(pattern.inputs, inputs, bound, f"`{node.op.name}`")

    def _inputs(
        self, refs: tuple[Ref, ...], values: list[Value | None], match: Match, reader: str
    ) -> Iterator[Match]:
        if not refs:
            yield match
            return
        for found in self._value(refs[0], values[0], match, reader):
            yield from self._inputs(refs[1:], values[1:], found, reader)

    def _attributes(self, wanted: Mapping[str, Any], node: Node, match: Match) -> Iterator[Match]:
        bound = dict(match.attributes)
        for name, pattern in wanted.items():
            value = node.attributes[name]
            if isinstance(pattern, AttributeVar):
                if bound.setdefault(pattern.name, value) != value:
                    self.failure.note(match, f"`{pattern.name}` differs between its parts")
                    return
            elif pattern != value:
                self.failure.note(
                    match,
                    f"`{name}` of `{node.op.name}` is {attribute_text(value)}, not {attribute_text(pattern)}",
                )
                return
        yield Match(match.nodes, match.operands, bound)

    def _is_legal(self, match: Match) -> bool:
        """Inner values have no reader outside, and nothing outside lies between matched nodes."""
        inside = set(match.nodes.values())
        exported = {Value(match.nodes[output.step], output.output) for output in self.rule.outputs}
        for number in inside:
            for value in self.graph.node(number).outputs:
                outside = [user for user, _ in self.graph.users(value) if user.id not in inside]
                if value not in exported and (outside or self.graph.is_output(value)):
                    name = self.graph.name_of(value) or f"the result of `{self.graph.node(number).op.name}`"
                    self.failure.note(match, f"{name} is read elsewhere too")
                    return False
        operands = {value.node for value in match.operands.values() if value is not None}
        reached = set().union(*(self.graph.depends_on(number) for number in inside))
        if operands & (reached | inside):
            self.failure.note(match, "one of its operands depends on its own result")
            return False
        return True


def _operand_orders(step: Step) -> list[tuple[int, ...]]:
    """The orders in which a node's operands may stand for a step's."""
    straight = tuple(range(len(step.inputs)))
    return [straight, straight[::-1]] if step.op.has(Trait.COMMUTATIVE) else [straight]


def _told(node: Node) -> str:
    if node.op is INPUT:
        return "an input of the layer"
    return "a number" if node.op is CONSTANT else f"`{node.op.name}` ({place_of(node)})"
