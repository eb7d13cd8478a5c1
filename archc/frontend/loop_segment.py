"""Runs of a loop's iterations that carry the same tensors: the bodies that were traced of them.

Bodies that come out alike after all are merged by their structural hash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from archc.errors import Note, Span
from archc.frontend import mistakes
from archc.frontend.lowerer import Frame
from archc.frontend.values import Handle, describe
from archc.ir.graph import Graph
from archc.ir.hashing import structural_hash
from archc.ir.node import Value
from archc.ir.ops.structure import LOSSES, WEIGHT
from archc.ir.paths import Path
from archc.ir.types import DType


@dataclass
class Variant:
    """One traced body: what it saw, what it is, and the compile-time values it leaves behind."""

    entry: dict[str, Any]  # compile-time values of carried names when it was entered
    frame: Frame
    carried: dict[str, Value]  # inputs of the body
    results: dict[str, Any]  # carried names after the iteration: tensors of the body, or plain values
    iterations: int = 0

    @cached_property
    def is_layer(self) -> bool:
        """Whether it brings weights or losses."""
        return any(node.op in (WEIGHT, LOSSES) for part in self.frame.graph.walk() for node in part.nodes())

    def change(self, carried: Mapping[str, Handle]) -> tuple[str, Handle, Any] | None:
        """A carried name whose tensor changes its type, and its values before and after."""
        for name, handle in carried.items():
            result = self.results.get(name, handle)  # a list may have become shorter
            if not isinstance(result, Handle) or result.type != handle.type:
                return name, handle, result
        return None


@dataclass
class Segment:
    """A run of iterations that carry the same tensors: it becomes one loop node."""

    carried: dict[str, Handle]  # tensors that enter
    variants: list[Variant] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    schedule: list[int] = field(default_factory=list)

    def add(self, variant: Variant, step: int) -> None:
        """One more iteration, which runs a body of this segment or a new one."""
        if not any(variant is known for known in self.variants):
            self.variants.append(variant)
        self.indices.append(step)
        self.schedule.append(next(i for i, known in enumerate(self.variants) if known is variant))
        variant.iterations += 1

    @property
    def leaving(self) -> list[str]:
        """The names of the tensors that its last iteration leaves."""
        return list(tensors_of(self.variants[self.schedule[-1]].results))

    @property
    def captures(self) -> list[Value]:
        """What its bodies read of the graph around the loop, besides what they carry."""
        return list(dict.fromkeys(value for variant in self.variants for value in variant.frame.captured))

    def shared_weights(self) -> Iterator[tuple[Path, Span]]:
        """Weights that several iterations would have under one path."""
        for variant in self.variants:
            if variant.iterations > 1:
                yield from variant.frame.unindexed

    def change(self) -> tuple[str, Handle, Any] | None:
        """The same of any layer among its bodies."""
        changes = (variant.change(self.carried) for variant in self.variants if not self._is_free(variant))
        return next((change for change in changes if change is not None), None)

    @property
    def has_layers(self) -> bool:
        """Whether some of its bodies are layers."""
        return any(variant.is_layer for variant in self.variants)

    def _is_free(self, variant: Variant) -> bool:
        """Whether a variant may change types: it is unrolled, being no layer and the only iteration."""
        return not variant.is_layer and len(self.schedule) == 1

    def bodies(self, outer: Graph) -> tuple[list[Graph], list[int]]:
        """The different bodies, with one set of inputs and outputs, and which of them each iteration runs."""
        captures = self.captures
        closed = [
            _close(variant, list(self.carried), captures, self.leaving, outer) for variant in self.variants
        ]
        return _merge(closed, self.schedule)


def tensors_of(values: Mapping[str, Any]) -> dict[str, Handle]:
    """Those of some named values that are tensors."""
    return {name: value for name, value in values.items() if isinstance(value, Handle)}


def changed_type(span: Span, name: str, before: Handle, after: Any) -> mistakes.CarriedTypeChanges:
    """The mistake of an iteration that changes the type of a carried tensor."""
    notes = []
    if isinstance(after, Handle):
        node = after.graph.node(after.value)
        notes.append(Note(f"`{name}` is made here by `{node.op.name}`", node.span))
    return mistakes.CarriedTypeChanges(
        span,
        name=name,
        before=describe(before),
        after=describe(after),
        rule=_kept(name, before, after),
        notes=notes,
    )


def _kept(name: str, before: Handle, after: Any) -> str:
    """What a carried tensor must keep, and an iteration has changed."""
    if not isinstance(after, Handle):
        return "stays a tensor"
    if after.type.shape != before.type.shape:
        return "keeps its shape"
    if before.type.dtype is DType.F32:
        return f"keeps its dtype: `upcast` takes it back to {before.type.dtype.value}"
    return f"keeps its dtype: `cast_like(..., {name})` takes it back to {before.type.dtype.value}"


def _close(
    variant: Variant, entering: list[str], captures: list[Value], leaving: list[str], outer: Graph
) -> Graph:
    """Give a body the inputs and outputs that all bodies of its loop have."""
    graph, captured = variant.frame.graph, variant.frame.captured
    for value in captures:
        if value not in captured:
            captured[value] = graph.add_input(outer.name_of(value), outer.type(value), outer.node(value).span)
    graph.inputs = [variant.carried[name] for name in entering] + [captured[value] for value in captures]
    graph.outputs = [(name, variant.results[name].value) for name in leaving]
    return graph


def _merge(bodies: list[Graph], schedule: list[int]) -> tuple[list[Graph], list[int]]:
    """Keep one of each set of bodies that came out alike."""
    kept: dict[str, int] = {}
    merged: list[Graph] = []
    renumbered: list[int] = []
    for body in bodies:
        key = structural_hash(body)
        if key not in kept:
            kept[key] = len(merged)
            merged.append(body)
        renumbered.append(kept[key])
    return merged, [renumbered[number] for number in schedule]
