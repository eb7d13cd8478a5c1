"""What ends all layers of a loop alike: sums, products and norms, up to a value that the loop carries.

Such a tail may as well begin the next layer.  Before the first it must give back what enters the loop, so all
else that it reads starts as 0 or as 1: x + f starts with f = 0, (x + f) * w with f = 0 and w = 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from heapq import heappop, heappush

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS, Trait
from archc.ir.ops.structure import CONSTANT
from archc.ir.types import DType, TensorType

ADD, SUB, MUL = OPS["add"], OPS["sub"], OPS["mul"]
_CASTS = (OPS["upcast"], OPS["cast_like"], OPS["upcast_like"])

# A value of each body, all at the same place of its tail.
Place = tuple[Value, ...]


class Start(Enum):
    """What a value is before the first layer; `STREAM`: what enters the loop."""

    STREAM = auto()
    ZERO = auto()
    ONE = auto()
    ANY = auto()  # whatever is finite


@dataclass
class Tail:
    """The tail of a value that a loop carries.

    steps:  its ops, one of each body, the last first: each comes before those whose results it reads
    starts: what it reads besides numbers, and how that starts
    """

    loop: Node
    name: str
    only_sums: bool
    steps: list[tuple[Node, ...]] = field(default_factory=list)
    starts: dict[Place, Start] = field(default_factory=dict)
    _left_out: set[int] = field(default_factory=set)

    @staticmethod
    def of(loop: Node, name: str, only_sums: bool) -> Tail:
        """The longest tail; `only_sums`: of sums, and of norms before them."""
        tail = Tail(loop, name, only_sums)
        tail._grow()
        while (culprit := tail._without_start()) is not None:
            tail._left_out.add(culprit.id)
            tail._grow()
        return tail

    @property
    def bodies(self) -> Sequence[Graph]:
        return self.loop.bodies

    @property
    def type(self) -> TensorType:
        carried: Sequence[str] = self.loop.attributes["carried"]
        return self.loop.types[carried.index(self.name)]

    @property
    def leaves(self) -> Place:
        return tuple(dict(body.outputs)[self.name] for body in self.bodies)

    @property
    def stream(self) -> Place:
        """What stands for the value that enters."""
        return next(place for place, start in self.starts.items() if start is Start.STREAM)

    @property
    def carried(self) -> list[Place]:
        """What a layer must hand on besides, rows first: not what all are given and may start as it is."""
        kept = [p for p, start in self.starts.items() if start is not Start.ANY or self.captured(p) is None]
        return sorted((place for place in kept if place != self.stream), key=self.is_vector)

    def captured(self, place: Place) -> int | None:
        """The number of the input where all bodies are given a value from outside of the loop."""
        number, *others = (
            body.inputs.index(value) if value in body.inputs else -1
            for body, value in zip(self.bodies, place, strict=True)
        )
        same = all(other == number for other in others) and number >= len(self.loop.attributes["entering"])
        return number if same else None

    def is_vector(self, place: Place) -> bool:
        """Whether a value is the same for all tokens."""
        return not any(isinstance(dim, str) for dim in self.type_of(place).shape)

    def type_of(self, place: Place) -> TensorType:
        return self.bodies[0].type(place[0])

    def reader(self, place: Place) -> tuple[Node, str]:
        """The op that reads a value last, and its operand."""
        return next(
            (nodes[0], operand)
            for nodes in self.steps
            for operand, value in self.operands(nodes).items()
            if value == place
        )

    def operands(self, nodes: Sequence[Node]) -> dict[str, Place]:
        """What ops of all bodies read, by operand, without those that only tell a dtype."""
        op = nodes[0].op
        places = zip(*(node.inputs for node in nodes), strict=True)
        named = zip((operand.name for operand in op.operands), places, strict=True)
        given = {name: tuple(v for v in place if v is not None) for name, place in named}
        return {name: place for name, place in given.items() if place and name not in op.models}

    def number(self, place: Place) -> float | None:
        """The number that a value is in all bodies."""
        makers = [body.node(value) for body, value in zip(self.bodies, place, strict=True)]
        numbers = {maker.attributes["value"] if maker.op is CONSTANT else None for maker in makers}
        return numbers.pop() if len(numbers) == 1 else None

    def _grow(self) -> None:
        """Take in ops from the last on, as long as nothing else reads them."""
        self.steps, self.starts = [], {}
        order = {node.id: place for place, node in enumerate(self.bodies[0].nodes())}
        inside: list[set[int]] = [set() for _ in self.bodies]
        waiting = [(-order[self.leaves[0].node], self.leaves)]
        seen = set()
        while waiting:
            _, place = heappop(waiting)
            if place in seen:
                continue
            seen.add(place)
            nodes = tuple(body.node(value) for body, value in zip(self.bodies, place, strict=True))
            if not (self._are_alike(nodes) and self._are_read_inside(nodes, inside)):
                self.starts[place] = Start.ANY
                continue
            self.steps.append(nodes)
            for numbers, node in zip(inside, nodes, strict=True):
                numbers.add(node.id)
            for operand in self.operands(nodes).values():
                if self.number(operand) is None:
                    heappush(waiting, (-order[operand[0].node], operand))

    def _are_alike(self, nodes: Sequence[Node]) -> bool:
        """Whether ops are the same in all bodies, and move."""
        first = nodes[0]
        norm = first.op.has(Trait.NORM) and first.attributes["eps"] > 0
        moves = norm or first.op in ((ADD,) if self.only_sums else (ADD, SUB, MUL, *_CASTS))
        if not moves or first.id in self._left_out or first.types[0].shape != self.type.shape:
            return False
        absent = [value is None for value in first.inputs]
        return all(
            node.op is first.op
            and node.attributes == first.attributes
            and node.types == first.types
            and [value is None for value in node.inputs] == absent
            for node in nodes
        ) and all(map(self._can_be_read, self.operands(nodes).values()))

    def _can_be_read(self, place: Place) -> bool:
        """Whether the next layer can be given a value: a row, a vector, or one number of all bodies."""
        types = {body.type(value) for body, value in zip(self.bodies, place, strict=True)}
        if any(type_.dtype is DType.SCALAR for type_ in types):
            return self.number(place) is not None
        floats = all(type_.dtype in (DType.FLOAT, DType.F32) for type_ in types)
        return len(types) == 1 and floats and (self.is_vector(place) or types.pop().shape == self.type.shape)

    def _are_read_inside(self, nodes: Sequence[Node], inside: Sequence[set[int]]) -> bool:
        """Whether nothing but the tail reads results; of the last, whether it only leaves the layer."""
        for body, node, numbers in zip(self.bodies, nodes, inside, strict=True):
            (value,) = node.outputs
            ends = [left for _, left in body.outputs].count(value)
            if any(user.id not in numbers for user, _ in body.users(value)) or ends != (not numbers):
                return False
        return True

    def _without_start(self) -> Node | None:
        """Find how all that is read starts; an op that nothing can start for, None where there is none."""
        needs = {self.leaves: Start.STREAM}
        for nodes in self.steps:
            made = tuple(node.outputs[0] for node in nodes)
            wanted = self._wanted(nodes, needs[made])
            if wanted is None:
                return nodes[0]
            for operand, start in wanted.items():
                known = needs.get(operand, Start.ANY)
                differ = known is not start and Start.ANY not in (known, start)
                if differ or not self._can_start(operand, start):
                    return nodes[0]
                needs[operand] = start if known is Start.ANY else known
        self.starts = {place: needs[place] for place in self.starts}
        return None

    def _can_start(self, place: Place, start: Start) -> bool:
        """Whether a value may start so: a number is what it is."""
        number = self.number(place)
        if number is not None:
            return start is Start.ANY or {0.0: Start.ZERO, 1.0: Start.ONE}.get(number) is start
        if place not in self.starts:
            return True
        if start is Start.STREAM:
            return self.type_of(place) == self.type and self.captured(place) is None
        return self.is_vector(place) or self.type_of(place) == self.type

    def _wanted(self, nodes: Sequence[Node], need: Start) -> dict[Place, Start] | None:
        """How an op's operands start so that its result does; None where that cannot be."""
        op, operands = nodes[0].op, self.operands(nodes)
        places = list(operands.values())
        if op in _CASTS:
            return {places[0]: need}
        if need is Start.ANY:
            return dict.fromkeys(places, need)
        if op.has(Trait.NORM):
            wanted = {
                place: Start.ZERO if name in ("x", "bias") else Start.ANY for name, place in operands.items()
            }
            return wanted if need is Start.ZERO else None
        if places[0] == places[-1]:
            return None
        first, second = places
        if op is MUL and need is Start.ZERO:
            zero, other = (first, second) if self._is_zero_first(first, second) else (second, first)
            return {zero: need, other: Start.ANY}
        if op is not SUB and need is Start.STREAM and self._is_stream(second) and not self._is_stream(first):
            first, second = second, first
        if op is MUL:
            return {first: need, second: Start.ONE}
        return {first: need, second: Start.ZERO}

    def _is_zero_first(self, first: Place, second: Place) -> bool:
        """Whether the first factor is to be 0: rather a vector than a row, and rather a row than a number."""
        vectors = [place in self.starts and self.is_vector(place) for place in (first, second)]
        return vectors[0] or (not vectors[1] and self.number(first) is None)

    def _is_stream(self, place: Place) -> bool:
        """Whether a value is what enters the layer, or that with other things done to it."""
        body, enters = (
            self.bodies[0],
            self.bodies[0].inputs[self.loop.attributes["entering"].index(self.name)],
        )
        return any(value == enters for value in _stream_before(body, place[0]))


def _stream_before(body: Graph, value: Value) -> Iterator[Value]:
    """A value, and what sums, products and casts make it of."""
    yield value
    node = body.node(value)
    if node.op in (ADD, SUB, MUL, *_CASTS):
        for operand in node.inputs:
            if operand is not None:
                yield from _stream_before(body, operand)
