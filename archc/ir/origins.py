"""What values follow from: from positions alone, for one, so that all sequences share them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import TypeAlias

from archc.ir.expr import leaf
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS, Op
from archc.ir.ops.key_choice import RANK_KEYS, SELECT_KEYS
from archc.ir.ops.structure import BRANCH, CONSTANT, EXPERTS, INPUT, LOOP, WEIGHT
from archc.ir.program import are_positions, captured_in
from archc.ir.types import DType

TOP_K = OPS["top_k"]


class Origin(Enum):
    """What a value follows from, of what is asked for."""

    FREE = "numbers and weights"
    GIVEN = "the inputs in question, and what is free"
    OTHER = "anything else as well"
    MIXED = "what a loop carries, where that is not the same in all iterations"


# By the graph's `id` and the value, in a graph and its bodies.
Origins: TypeAlias = dict[tuple[int, Value], Origin]


def flat_in(root: Graph) -> set[tuple[int, Value]]:
    """The values without a gradient: they depend on whole numbers alone, such as positions, or on steps."""
    starts = [value for value in root.inputs if root.type(value).dtype is DType.I64]
    found = _Flat(starts, (CONSTANT,)).of(root)
    return {place for place, origin in found.items() if origin is Origin.GIVEN}


def once_in(root: Graph) -> Origins:
    """Which values depend on positions and weights alone: without padding all sequences share them."""
    starts = [value for value in root.inputs if are_positions(root.node(value).attributes["name"])]
    return _Trace(starts, (CONSTANT, WEIGHT)).of(root)


def chosen_in(root: Graph) -> set[tuple[int, Value]]:
    """The values that are one choice of keys, or always one of such: no place stands in them twice."""
    return {place for place, origin in _Choices((), ()).of(root).items() if origin is Origin.GIVEN}


def mixes_sequences(graph: Graph, values: Iterable[Value], once: Origins) -> bool:
    """Whether of a graph's values some may have rows of all sequences, and some those of a single one.

    What is mixed is like no other value.
    """
    kinds: set[bool | Value] = set()
    for value in values:
        origin = once.get((id(graph), value))
        kinds.add(value if origin is Origin.MIXED else origin is Origin.GIVEN)
    return len(kinds) > 1


class _Trace:
    """Follows some inputs of a graph, with ops that are free to read."""

    def __init__(self, starts: Sequence[Value], free: tuple[Op, ...]):
        self.starts = starts
        self.free = free
        self.found: Origins = {}

    def of(self, root: Graph) -> Origins:
        self._follow(root, dict.fromkeys(self.starts, Origin.GIVEN))
        return self.found

    def _follow(self, graph: Graph, known: dict[Value, Origin]) -> None:
        """Add all values of a graph to those known, which are its inputs."""
        for node in graph.nodes():
            if node.op is LOOP:
                known.update(zip(node.outputs, self._loop(node, known), strict=True))
            elif node.op is EXPERTS:
                known.update(dict.fromkeys(node.outputs, self._experts(node, known)))
            elif node.op is not INPUT:
                known.update(dict.fromkeys(node.outputs, self._origin(node, known)))
                for body in node.bodies if node.op is BRANCH else ():
                    self._follow(body, captured_in(body, node, known))
        self.found.update(((id(graph), value), origin) for value, origin in known.items())

    def _origin(self, node: Node, known: Mapping[Value, Origin]) -> Origin:
        if node.op in self.free:
            return Origin.FREE
        alike = node.given((*node.op.models, *node.op.widths))
        read = [value for value in node.operands if value not in alike]
        if alike and not read:
            return Origin.FREE
        if node.bodies or not read:
            return Origin.OTHER
        return _of_all({known.get(value, Origin.OTHER) for value in read})

    def _experts(self, node: Node, known: Mapping[Value, Origin]) -> Origin:
        """What experts return, and their choice; in their bodies no row is that of all sequences."""
        (body,) = node.bodies
        chosen, *taken = (known.get(value, Origin.OTHER) for value in node.operands)
        inner = dict(zip(body.inputs, taken, strict=True))
        _Trace((), self.free)._follow(body, inner)
        return _of_all({chosen, *(inner[value] for _, value in body.outputs)})

    def _loop(self, loop: Node, known: Mapping[Value, Origin]) -> list[Origin]:
        """The origins of a loop's results; what is not the same before and after a body is mixed."""
        names: Sequence[str] = loop.attributes["entering"]
        carried: Sequence[str] = loop.attributes["carried"]
        entering = {
            name: Origin.OTHER if value is None else known.get(value, Origin.OTHER)
            for name, value in zip(names, loop.inputs, strict=False)
        }
        while True:
            left = self._left(loop, known, entering)
            carries = {
                name: _one_of(left[name] | {entering.get(name, next(iter(left[name])))}) for name in carried
            }
            if all(carries.get(name, origin) is origin for name, origin in entering.items()):
                return [carries[name] for name in carried]
            entering |= {name: carries[name] for name in names if name in carries}

    def _left(
        self, loop: Node, known: Mapping[Value, Origin], entering: Mapping[str, Origin]
    ) -> dict[str, set[Origin]]:
        """What a loop's bodies leave by name, each for itself."""
        left: dict[str, set[Origin]] = {}
        for body in loop.bodies:
            inner = captured_in(body, loop, known)
            inner |= dict(zip(body.inputs, entering.values(), strict=False))
            self._follow(body, inner)
            for name, value in body.outputs:
                left.setdefault(name, set()).add(inner.get(value, Origin.OTHER))
        return left


class _Choices(_Trace):
    """Follows what ops choose: what is made of choices is none."""

    def _origin(self, node: Node, _known: Mapping[Value, Origin]) -> Origin:
        return Origin.GIVEN if node.op in (SELECT_KEYS, RANK_KEYS, TOP_K) else Origin.OTHER


class _Flat(_Trace):
    """Follows whole numbers, and what has the derivative 0."""

    def _origin(self, node: Node, known: Mapping[Value, Origin]) -> Origin:
        return Origin.GIVEN if _is_flat(node) else super()._origin(node, known)


def _is_flat(node: Node) -> bool:
    """Whether no gradient flows through a node, whatever it reads."""
    if not any(type_.dtype.is_floating for type_ in node.types):
        return True
    derivative = node.op.derivative
    return derivative is not None and not any(node.op.gradients(leaf(""), [leaf("")] * len(node.inputs)))


def _of_all(origins: set[Origin]) -> Origin:
    """What follows from values of these origins."""
    first = (each for each in (Origin.OTHER, Origin.MIXED, Origin.GIVEN) if each in origins)
    return next(first, Origin.FREE)


def _one_of(origins: set[Origin]) -> Origin:
    return next(iter(origins)) if len(origins) == 1 else Origin.MIXED
