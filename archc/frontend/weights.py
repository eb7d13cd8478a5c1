"""The weights of ops: new ones at their paths, or those that they are tied to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Literal

from archc.errors import Span, did_you_mean
from archc.frontend import mistakes
from archc.frontend.lowerer import Frame, Tie
from archc.frontend.paths import IN_LOOPS, UNKNOWN, Paths
from archc.frontend.tied_experts import of_experts, tied_weight
from archc.frontend.values import Handle
from archc.ir.graph import Graph
from archc.ir.inits import Init, Normal
from archc.ir.node import Value
from archc.ir.ops.structure import WEIGHT
from archc.ir.paths import Index, Path, Stored, concrete, path_text
from archc.ir.types import Dim, DType, TensorType, shape_text


@dataclass(frozen=True)
class Start:
    """How a weight begins, and whether training changes it."""

    init: Init
    trained: bool


@dataclass(frozen=True)
class Place:
    """Where a call's weight lies: its path, then its own name; how one tensor holds those of experts."""

    path: Path
    name: str
    stacking: str


class Weights(Paths):
    """Declaration of weights, and their sharing by `tied_to`."""

    @contextmanager
    def tied(self, target: Path | Literal[False] | None, prefix: Path) -> Iterator[None]:
        """Take the weights under `prefix` from `target`; False gives it its own, also inside of a tie."""
        saved = self.tie
        if target is not None:
            self.tie = Tie(prefix, target) if target is not False else None
        try:
            yield
        finally:
            self.tie = saved

    def weight(self, place: Place, type_: TensorType, start: Start, span: Span) -> Value:
        """The weight of a call: a new one, or the one that it is tied to."""
        shape = type_.shape
        full = self.prefix + place.path + ((place.name,) if place.name else ())
        if self.tie is not None:
            return self.resolve(self._tied_weight(self.tie, full, shape, span))
        frame = self._home(full, span)
        stored = _stored(frame, full, tuple(size for size in shape if not isinstance(size, str)))
        if place.stacking == "rows":
            stored = self._joined(stored, span)
        node = frame.graph.add(
            WEIGHT,
            (),
            {
                "type": type_,
                "sources": (stored,),
                "init": start.init,
                "trained": start.trained,
            },
            span=self.place(span),
            path=full,
        )
        self.weights[full] = Handle(frame.graph, node.outputs[0])
        if (known := of_experts(frame, node)) is not None:
            self.of_experts[full] = known
        self.weight_calls[full, node.id] = self.call_notes(span)
        return self.resolve(self.weights[full])

    def _joined(self, stored: Stored, span: Span) -> Stored:
        """The same tensor, in a checkpoint that has the experts' matrices one below the other."""
        if not stored.planes:
            self.report(mistakes.UselessStacking(span, path=path_text(stored.path)))
            return stored
        return replace(stored, joined=0)

    def _home(self, path: Path, span: Span) -> Frame:
        """The frame whose graph a weight belongs to: the innermost whose loop variable the path follows.

        A path that does not tell experts apart is that of one tensor with the weights of all.
        """
        variables = {segment.variable for segment in path if isinstance(segment, Index)}
        frame = self.frame
        while frame.outer is not None and frame.region is None and frame.variable not in variables:
            if UNKNOWN not in path:
                frame.unindexed.append((path, self.place(span)))
            frame = frame.outer
        return frame

    def _tied_weight(self, tie: Tie, path: Path, shape: tuple[Dim, ...], span: Span) -> Handle:
        target = tie.target + path[len(tie.prefix) :]
        found = self._known(target, span)
        need = TensorType(shape, DType.FLOAT)
        if found is None or not _lies_in(self.frame, found.graph):
            hint = self._untied_hint(tie, path, shape) if found is None else self._elsewhere(target)
            self.report(mistakes.UnknownTie(span, path=path_text(target), hint=hint))
        elif found.type.shape != shape:
            have = shape_text(found.type.shape)
            self.report(mistakes.WrongTie(span, path=path_text(target), have=have, need=shape_text(shape)))
        else:
            self._remember_tie(path, target)
            return found
        graph = self.frame.graph
        stand_in = graph.add(WEIGHT, (), {"type": need, "sources": (), "init": Normal(), "trained": True})
        return Handle(graph, stand_in.outputs[0])

    def _known(self, target: Path, span: Span) -> Handle | None:
        """The weight at a path; of other experts than those around this place, the same for these."""
        found, known, region = self.weights.get(target), self.of_experts.get(target), self.region
        if known is None or region is None or found is None or _lies_in(self.frame, found.graph):
            return found
        if known.count != region.count or not _lies_in(self.frame, known.around):
            return found
        frame = self._home(target, span)
        return Handle(frame.graph, tied_weight(frame, known).outputs[0])

    def _elsewhere(self, target: Path) -> str:
        """Why a weight that exists cannot be shared here."""
        known, region = self.of_experts.get(target), self.region
        if known is None or (region is not None and known.count == region.count):
            return IN_LOOPS
        return f"it is of {known.count} experts, and only as many others can share it"

    def _untied_hint(self, tie: Tie, path: Path, shape: tuple[Dim, ...]) -> str:
        """What to write in place of a tie whose target lacks a weight, or whose path is wrong."""
        own = path[len(tie.prefix) :]
        if any(known[: len(tie.target)] == tie.target for known in self.weights):
            added = f"`+ parameter({shape_text(shape)}) as {path_text(path[len(self.prefix) :])}`"
            if own[-1] != "weight":
                return f"leave `{path_text(own)}` out of what is tied; {added} is one of its own"
            return f"`tied_to = false` in its own call gives `{path_text(own)}` a weight of its own"
        return did_you_mean(path_text(tie.target + own), map(path_text, self.weights))

    def _remember_tie(self, path: Path, target: Path) -> None:
        """Note what a checkpoint may call the shared weight, in every iteration of the loops around it."""
        if path == target:
            return
        variables = [s.variable for s in (*path, *target) if isinstance(s, Index)]
        runs = {variable: self.steps[variable] for variable in variables}
        self.spend(prod(map(len, runs.values())))
        for steps in product(*runs.values()):
            indices = dict(zip(runs, steps, strict=True))
            self.tied_names[concrete(path, indices)] = concrete(target, indices)


def _stored(frame: Frame, path: Path, shape: tuple[int, ...]) -> Stored:
    """How the checkpoint holds a weight: by itself, or as one plane of those of all experts."""
    region = frame.region
    follows = any(isinstance(segment, Index) and segment.variable == frame.variable for segment in path)
    if region is None or follows:
        return Stored(path, shape)
    return Stored(path, shape, planes=region.count, plane=Index(region.variable))


def _lies_in(frame: Frame, graph: Graph) -> bool:
    """Whether a graph is the frame's or one outside of it."""
    return any(around.graph is graph for around in frame.outwards())
