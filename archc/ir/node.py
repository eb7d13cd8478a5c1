"""Nodes of a graph, the values that they make, and where in a spec they were written.

All of them are immutable; what changes is the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from archc.errors import Span
from archc.ir.op import Op
from archc.ir.ops.structure import BRANCH, EXPERTS, LOOP, SCAN
from archc.ir.paths import Path, Shared, Stored
from archc.ir.types import TensorType

if TYPE_CHECKING:
    from archc.ir.graph import Graph

_WITH_BODIES = (LOOP, EXPERTS, BRANCH, SCAN)


class Value(NamedTuple):
    """Output number `output` of node number `node`."""

    node: int
    output: int = 0


@dataclass(frozen=True)
class Scope:
    """Where in the spec a node was written: the block, and the path it was called under."""

    block: str
    path: Path
    span: Span | None


@dataclass(frozen=True)
class Node:
    """An op applied to values.  `names` are those of its outputs, from the spec; `order` is program order."""

    id: int
    op: Op
    inputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    types: tuple[TensorType, ...]
    names: tuple[str, ...] = ()
    span: Span | None = None
    scope: Scope | None = None
    order: tuple[int, ...] = ()
    path: Path = ()  # the call's path, where its weights lie

    @cached_property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(Value(self.id, index) for index in range(len(self.types)))

    @property
    def written(self) -> Span:
        """Where a spec has the node, or what it was made of; nodes without such a place are not asked."""
        assert self.span is not None, self.op.name
        return self.span

    @property
    def bodies(self) -> tuple[Graph, ...]:
        """A loop's different bodies, the one of experts or of a scan, or the two of a branch."""
        bodies: tuple[Graph, ...] = self.attributes["bodies"] if self.op in _WITH_BODIES else ()
        return bodies

    def with_own_bodies(self) -> Node:
        """The node with copies of its bodies."""
        if not self.bodies:
            return self
        bodies = tuple(body.copy() for body in self.bodies)
        return replace(self, attributes={**self.attributes, "bodies": bodies})

    @cached_property
    def operands(self) -> tuple[Value, ...]:
        """What the node reads: its inputs without those that it goes without."""
        return tuple(value for value in self.inputs if value is not None)

    @cached_property
    def named(self) -> dict[str, Value]:
        """The operands by their names, but those of an op that takes any number."""
        inputs = () if self.op.variadic else zip(self.op.operands, self.inputs, strict=True)
        return {operand.name: value for operand, value in inputs if value is not None}

    @property
    def first(self) -> Value:
        """The first operand, of an op that always has one."""
        return self.operands[0]

    @property
    def past(self) -> list[Value]:
        """The operands that are values of earlier tokens too."""
        return self.given(self.op.past)

    @property
    def computed_with(self) -> list[Value]:
        """The operands of which the node reads more than the dtype."""
        models = self.given(self.op.models)
        return [value for value in self.operands if value not in models]

    def given(self, names: Iterable[str]) -> list[Value]:
        """Those of some operands that the node has."""
        return [self.named[name] for name in names if name in self.named]


def stored_in(weight: Node) -> tuple[Stored, ...]:
    """The checkpoint's tensors that a weight node holds, in the order of its rows."""
    sources: tuple[Stored, ...] = weight.attributes["sources"]
    return sources


def shared_in(weight: Node) -> Shared | None:
    """For a weight of experts, the tensors of those that every token goes through, if there are any."""
    shared: Shared | None = weight.attributes.get("shared")
    return shared
