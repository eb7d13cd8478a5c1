"""Loops stay rolled: an iteration is traced only where it differs from those traced before.

While a body is traced, everything it looks at that depends on the loop variable is noted.  Another iteration
for which all of that comes out the same is the same body, whatever the number of layers; bodies that come out
alike after all are merged by their structural hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from archc.errors import Span
from archc.frontend import mistakes, syntax
from archc.frontend.carried_lists import apart, together
from archc.frontend.limits import MAX_LOOP_DEPTH
from archc.frontend.loop_segment import Segment, Variant, changed_type, tensors_of
from archc.frontend.loop_variable import fresh_variable, loop_value
from archc.frontend.lowerer import Frame, Observation
from archc.frontend.statements import Statements, assigned_names
from archc.frontend.unroll import unrolled
from archc.frontend.values import (
    POISON,
    ArithmeticMistake,
    Env,
    Handle,
    List,
    LoopValue,
    Poison,
    describe,
)
from archc.ir.graph import Graph
from archc.ir.node import Value
from archc.ir.ops.structure import LOOP
from archc.ir.paths import Index, Path
from archc.ir.types import TensorType


class Loops(Statements):
    """Running of `for`."""

    def loop(self, statement: syntax.For, env: Env) -> None:
        items = self.known(self.evaluate(statement.items, env))
        if isinstance(items, Poison):
            return self._poison(statement, env)
        if not isinstance(items, range | tuple):
            what, expected = "what a `for` runs over", "a range `0..n` or a list"
            span = statement.items.span
            self.report(mistakes.WrongValue(span, what=what, expected=expected, found=describe(items)))
            return self._poison(statement, env)
        if len(self.steps) >= MAX_LOOP_DEPTH:
            self.report(mistakes.TooDeep(_header(statement), limit=f"{MAX_LOOP_DEPTH} loops"))
            return self._poison(statement, env)
        if self.region is not None:
            self.report(mistakes.NotInExperts(_header(statement), what="a `for`"))
            return self._poison(statement, env)
        _Loop(self, statement, env, items).run()
        return None

    def _poison(self, statement: syntax.For, env: Env) -> None:
        for name in assigned_names(statement.body):
            env.names[name] = POISON


class _Loop:
    """One `for`, run."""

    def __init__(self, lowerer: Loops, statement: syntax.For, env: Env, items: Sequence[Any]):
        self.lowerer = lowerer
        self.statement = statement
        self.env = env
        self.items = items
        self.variable = fresh_variable(statement.variable, lowerer.steps)
        self.steps: Sequence[int] = items if isinstance(items, range) else range(len(items))
        self.names = [name for name in assigned_names(statement.body) if name in env.local()]
        self.path = self._path()

    def run(self) -> None:
        """Trace or recognise each iteration; then build the loop nodes."""
        values = apart({name: self._entering(name) for name in self.names})
        segment = Segment({})
        for step in self.steps:
            self.lowerer.spend()
            if list(tensors_of(values)) != list(segment.carried):
                values = self._finish(segment, values)
                segment = Segment(tensors_of(values))
            plain = {name: value for name, value in values.items() if name not in segment.carried}
            variant = self._variant(segment, step, plain)
            alone = variant.change(segment.carried) is not None and not variant.is_layer
            if alone or list(tensors_of(variant.results)) != list(segment.carried):
                # What this iteration leaves differs from what it entered with: it is a segment of its own.
                values = self._finish(segment, values)
                segment = Segment(tensors_of(values))
            if _poisoned(values):
                break  # the segment before was at fault: this iteration's operands are not of this graph
            segment.add(variant, step)
            values = dict(variant.results)
            if alone:
                values = self._finish(segment, values)
                segment = Segment({})
            if _poisoned(values):
                break
        left = together(self._finish(segment, values))
        self.env.names.update({name: left[name] for name in self.names})

    def _entering(self, name: str) -> Any:
        """What a name stands for before the loop."""
        value = self.env.lookup(name)
        listed = isinstance(value, LoopValue) and isinstance(value.value, List)
        return self.lowerer.known(value) if listed else value

    def _path(self) -> Path:
        lowerer, path = self.lowerer, self.statement.path
        if path is None or not self.steps:
            return ()
        first = loop_value(self.variable, self.items, self.steps[0])
        lowerer.steps[self.variable] = self.steps
        named = lowerer.path_of(path, Env(self.env, {self.statement.variable: first}))
        del lowerer.steps[self.variable]
        if any(not isinstance(segment, str) and segment.variable == self.variable for segment in named):
            return named
        return (*named, Index(self.variable))

    def _variant(self, segment: Segment, step: int, plain: dict[str, Any]) -> Variant:
        """The body that an iteration runs, traced now if it is new."""
        indices = {**self.lowerer.now, self.variable: step}
        for variant in segment.variants:
            self.lowerer.spend(1 + len(plain))
            if variant.entry == plain and self._same(variant.frame.observed, indices):
                self._observe_outside(variant, step)
                return variant
        return self._trace(segment, step, plain)

    def _same(self, observed: list[Observation], indices: dict[str, int]) -> bool:
        """Whether an iteration sees the same values as a traced one."""
        for observation in observed:
            self.lowerer.spend(observation.source.steps)
            try:
                if not observation.holds(indices):
                    return False
            except (ArithmeticMistake, ValueError):
                return False  # tracing the iteration will say what is wrong with it
        return True

    def _observe_outside(self, variant: Variant, step: int) -> None:
        """What an inner iteration looked at may depend on outer loops too: note it for them."""
        for observation in variant.frame.observed:
            others = observation.source.variables - {self.variable}
            if others:
                self.lowerer.spend()
                at = partial(_at_step, observation.source, self.variable, step)
                self.lowerer.known(replace(observation.source, at=at, variables=others))

    def _trace(self, segment: Segment, step: int, plain: dict[str, Any]) -> Variant:
        lowerer = self.lowerer
        lowerer.count_node(_header(self.statement))
        outer = lowerer.frame
        frame = Frame(Graph(f"{outer.graph.name}.{self.statement.variable}"), outer, self.variable)
        carried = {
            name: frame.graph.add_input(name, handle.type, _header(self.statement))
            for name, handle in segment.carried.items()
        }
        handles = {name: Handle(frame.graph, value) for name, value in carried.items()}
        inner = Env(self.env, together({**plain, **handles}))
        inner.names[self.statement.variable] = loop_value(self.variable, self.items, step)
        lowerer.frame = frame
        lowerer.steps[self.variable], lowerer.now[self.variable] = self.steps, step
        with lowerer.within(self.path):
            lowerer.run(self.statement.body, inner)
        del lowerer.steps[self.variable], lowerer.now[self.variable]
        left = apart({name: self._left(inner.names[name]) for name in self.names})
        results = {name: self._result(name, value, frame, carried) for name, value in left.items()}
        lowerer.frame = outer
        variant = Variant(plain, frame, carried, results)
        self._observe_outside(variant, step)
        return variant

    def _count(self, iterations: int) -> int:
        """The number of iterations, as the spec computes it where the loop is `0..count`."""
        items = self.statement.items
        if isinstance(items, syntax.Binary) and items.operator == "..":
            count = self.lowerer.known(self.lowerer.evaluate(items.right, self.env))
            if isinstance(count, int) and count == iterations:
                return count
        return iterations

    def _result(self, name: str, value: Any, frame: Frame, carried: dict[str, Value]) -> Any:
        """A carried value after an iteration; tensors become values of the body's graph."""
        if isinstance(value, Poison) and name in carried:
            return Handle(frame.graph, carried[name])  # go on as if it had kept its type
        if isinstance(value, Handle):
            return Handle(frame.graph, self.lowerer.resolve(value, frame))
        return value

    def _left(self, value: Any) -> Any:
        """What an iteration leaves: a tensor, or a value that is looked at."""
        return value if isinstance(value, Handle | Poison) else self.lowerer.known(value)

    def _finish(self, segment: Segment, values: dict[str, Any]) -> dict[str, Any]:
        """Build the loop node of a segment; the values of the carried names after it, in the outer graph."""
        if not segment.schedule:
            return values
        for path, span in segment.shared_weights():
            text = ".".join(map(str, path))
            self.lowerer.report(mistakes.UnindexedPath(span, path=text, variable=self.variable))
        change = segment.change()
        if change is not None:
            name, before, after = change
            if not isinstance(after, Poison):
                self.lowerer.report(changed_type(_header(self.statement), name, before, after))
            return dict.fromkeys(self.names, POISON)
        return {**values, **self._build(segment)}

    def _build(self, segment: Segment) -> dict[str, Handle]:
        """The loop node: carried tensors first among its operands and results, then what bodies capture."""
        lowerer = self.lowerer
        outer = lowerer.frame.graph
        leaving = segment.leaving
        bodies, schedule = segment.bodies(outer)
        operands = [lowerer.resolve(handle) for handle in segment.carried.values()]
        if not segment.has_layers and (len(bodies) == len(schedule) or lowerer.in_step):
            inlined = [bodies[number] for number in schedule]
            return dict(zip(leaving, self._unroll(inlined, operands, segment), strict=True))
        types: tuple[TensorType, ...] = tuple(bodies[0].type(value) for _, value in bodies[0].outputs)
        node = outer.add(
            LOOP,
            [*operands, *segment.captures],
            {
                "types": types,
                "bodies": tuple(bodies),
                "schedule": tuple(schedule),
                "indices": tuple(segment.indices),
                "variable": self.variable,
                "count": self._count(len(segment.schedule)),
                "entering": tuple(segment.carried),
                "carried": tuple(leaving),
            },
            names=tuple(leaving),
            span=_header(self.statement),
            scope=lowerer.scope,
            path=lowerer.prefix + self.path,
        )
        return {name: Handle(outer, value) for name, value in zip(leaving, node.outputs, strict=True)}

    def _unroll(self, bodies: Sequence[Graph], operands: Sequence[Value], segment: Segment) -> list[Handle]:
        """The iterations one after the other, without a loop; what the last of them leaves."""
        outer = self.lowerer.frame.graph
        values = list(operands)
        for body, step in zip(bodies, segment.indices, strict=True):
            values = unrolled(outer, body, [*values, *segment.captures], self.variable, step)
        return [Handle(outer, value) for value in values]


def _poisoned(values: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Poison) for value in values.values())


def _at_step(source: LoopValue, variable: str, step: int, indices: Mapping[str, int]) -> Any:
    return source.at({**indices, variable: step})


def _header(statement: syntax.For) -> Span:
    span = statement.span
    return Span(span.source, span.line, span.column, span.line, len(span.source.lines[span.line - 1]) + 1)
