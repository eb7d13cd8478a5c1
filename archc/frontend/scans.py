"""`scan`: a recurrence that no op says, as the step of one token.

The body is traced once, into a graph of its own.  A state is a value [B, T, ...] there like any other of the
tokens; a step runs it with T = 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from archc.errors import Mistake, Span
from archc.frontend import arithmetic, mistakes, syntax
from archc.frontend.lowerer import Frame
from archc.frontend.regions import Regions, is_per_token
from archc.frontend.values import POISON, Env, Handle, Poison, describe, peek
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS
from archc.ir.ops.recurrence import NEW_POSITIONS
from archc.ir.ops.structure import LOOP, SCAN, ZEROS
from archc.ir.program import KEY_POSITIONS, POSITIONS
from archc.ir.scan_form import ScanForm, is_of_token
from archc.ir.types import Dim, DType, TensorType, apart

ADD, UPCAST = OPS["add"], OPS["upcast"]


class Scans(Regions):
    """Evaluation of `scan`."""

    def scan(self, expr: syntax.Scan, env: Env) -> Any:
        if self.in_step or self.region is not None:
            mistake = mistakes.NotInStep if self.in_step else mistakes.NotInExperts
            return self.report(mistake(expr.over.span, what="a `scan`"))
        over = self.evaluate(expr.over, env)
        if isinstance(over, Poison):
            return POISON
        if not isinstance(over, Handle):
            what = "what a `scan` runs over"
            return self.report(mistakes.NotATensor(expr.over.span, what=what, found=describe(over)))
        if not over.type.dtype.is_floating:
            reason = f"runs over a floating-point value of each token, not {over.type}"
            return self.report(mistakes.WrongShape(expr.over.span, op="scan", reason=reason))
        span = expr.over.span
        positions = self.token_positions(POSITIONS, over, span)
        if isinstance(positions, Poison):
            return POISON
        if not expr.states:
            return self.report(mistakes.Stateless(span))
        starts = [self._state_start(state, over, env) for state in expr.states]
        known = [start for start in starts if start is not None]
        if len(known) < len(starts) or len({state.name for state in expr.states}) < len(starts):
            return POISON
        keys = self.token_positions(KEY_POSITIONS, over, span)
        (new,) = self.apply(NEW_POSITIONS, [positions, keys], {}, span)
        return _Tracer(self, expr, env, over, new, known).run()

    def _state_start(self, state: syntax.Param, over: Handle, env: Env) -> Handle | None:
        """What a state is before the first token; None after a mistake."""
        if state.shape is None or state.default is None:
            missing = "a shape" if state.shape is None else "a start"
            self.report(mistakes.BareState(state.span, name=state.name, missing=missing))
            return None
        dims, value = self._state_dims(state.shape, env), self.evaluate(state.default, env)
        if dims is None or isinstance(value, Poison):
            return None
        if isinstance(value, Handle):
            self.check_annotation(state.name, state.shape, value, env)
            dtype = self.dtype(state.shape)
            return value if value.type.shape == dims and dtype in (None, value.type.dtype) else None
        if not arithmetic.is_number(peek(value)):
            what = f"the start of the state `{state.name}`, if it is no number,"
            self.report(mistakes.NotATensor(state.default.span, what=what, found=describe(value)))
            return None
        return self._filled_state(state.shape, dims, value, over)

    def _state_dims(self, shape: syntax.Shape, env: Env) -> tuple[Dim, ...] | None:
        """The dims of a state; None after a mistake."""
        dims = self.dims(shape, env)
        unknown = [dim for dim in dims or () if isinstance(dim, str)]
        if shape.dtype not in (None, "float", "f32"):
            reason = f"a state is of floating point, `float` or `f32`, not `{shape.dtype}`"
        elif unknown:
            reason = f"`{unknown[0]}` is no number: a state has its shape for one token, without `B` and `T`"
        else:
            return dims
        self.report(mistakes.WrongShape(shape.span, op="scan", reason=reason))
        return None

    def _filled_state(
        self, shape: syntax.Shape, dims: tuple[Dim, ...], number: Any, over: Handle
    ) -> Handle | None:
        """A state that is the same number everywhere, in the dtype of what is scanned or in float32."""
        wide = over.type.dtype is DType.F32
        if shape.dtype == "float" and wide:
            reason = f"a number is no start of a `float` state in a scan over {over.type}: give it a tensor"
            self.report(mistakes.WrongShape(shape.span, op="scan", reason=reason))
            return None
        (start,) = self.apply(ZEROS, [over], {"shape": dims}, shape.span)
        if shape.dtype == "f32" and not wide:
            (start,) = self.apply(UPCAST, [start], {}, shape.span)
        if self.known(number) != 0:
            (start,) = self.apply(ADD, [start, number], {}, shape.span)
        return start if isinstance(start, Handle) else None


class _Tracer:
    """One scan."""

    def __init__(
        self,
        lowerer: Scans,
        expr: syntax.Scan,
        env: Env,
        over: Handle,
        positions: Handle,
        starts: list[Handle],
    ):
        self.lowerer = lowerer
        self.expr = expr
        self.env = env
        self.over = over
        self.positions = positions
        self.starts = starts
        self.names = [state.name for state in expr.states]

    def run(self) -> Any:
        lowerer, outer = self.lowerer, self.lowerer.frame
        lowerer.count_node(self.expr.span)
        frame = Frame(Graph(f"{outer.graph.name}.scan"), outer, is_step=True)
        states = [
            frame.graph.add_input(state.name, self._of_tokens(start.type), state.span)
            for state, start in zip(self.expr.states, self.starts, strict=True)
        ]
        before = {name: Handle(frame.graph, state) for name, state in zip(self.names, states, strict=True)}
        inner = Env(self.env, dict(before))
        lowerer.frame = frame
        result = lowerer.body_result(self.expr, inner, "what a `scan` returns", self._is_of_token)
        after = [self._after(inner.names[name], handle, name) for name, handle in before.items()]
        lowerer.frame = outer
        if result is None or None in after or not self._is_sound(frame):
            return POISON
        frame.graph.inputs = [*states, *frame.captured.values()]
        left = [value for value in after if value is not None]
        frame.graph.outputs = [("y", result), *zip(self.names, left, strict=True)]
        return self._build(frame)

    @property
    def _tokens(self) -> tuple[Dim, ...]:
        return self.over.type.shape[:2]

    def _of_tokens(self, type_: TensorType) -> TensorType:
        """The type of a state in the body."""
        return type_.with_shape(*self._tokens, *type_.shape)

    def _is_of_token(self, type_: TensorType) -> bool:
        return is_of_token(type_, self._tokens)

    def _after(self, value: Any, before: Handle, name: str) -> Value | None:
        """What a step leaves of a state; None after a mistake."""
        span = next(state.span for state in self.expr.states if state.name == name)
        if isinstance(value, Poison):
            return None
        if not isinstance(value, Handle):
            what = f"what a step leaves of the state `{name}`"
            self.lowerer.report(mistakes.NotATensor(span, what=what, found=describe(value)))
        elif value == before:
            self.lowerer.report(mistakes.StateStays(span, name=name))
        elif value.type != before.type:
            self.lowerer.report(mistakes.StateDiffers(span, name=name, before=before.type, after=value.type))
        else:
            return self.lowerer.resolve(value)
        return None

    def _is_sound(self, frame: Frame) -> bool:
        """Whether a step sees nothing of other tokens but states, and something of its own."""
        found = next(self._out_of_place(frame), None)
        if found is not None:
            self.lowerer.report(found)
            return False
        if not any(self._is_of_token(self._outside(value)) for value in frame.captured):
            self.lowerer.report(mistakes.NothingScanned(self.expr.over.span))
            return False
        return True

    def _outside(self, value: Value) -> TensorType:
        return self.lowerer.frame.graph.type(value)

    def _out_of_place(self, frame: Frame) -> Iterator[Mistake]:
        for node in frame.graph.nodes():
            if not is_per_token(node):
                yield _out_of_place(node, node.span or self.expr.over.span)
        for value in frame.captured:
            type_ = self._outside(value)
            dims = {apart(dim)[1] for dim in type_.shape if isinstance(dim, str)}
            if not self._is_of_token(type_) and dims & {self._tokens[1], "S"}:
                what = f"a value of all tokens, {type_},"
                yield mistakes.NotInStep(self.expr.over.span, what=what)

    def _build(self, frame: Frame) -> Handle:
        lowerer, body = self.lowerer, frame.graph
        graph = lowerer.frame.graph
        resolved = [lowerer.resolve(handle) for handle in (self.over, self.positions, *self.starts)]
        form = ScanForm(
            like=resolved[0],
            positions=resolved[1],
            starts=tuple(resolved[2:]),
            states=(None,) * len(self.names),
            taken=tuple(frame.captured),
        )
        attributes = {
            "types": (body.type(body.outputs[0][1]),),
            "bodies": (body,),
            "states": tuple(self.names),
        }
        node = graph.add(
            SCAN,
            form.inputs,
            attributes,
            span=lowerer.place(self.expr.span),
            scope=lowerer.scope,
            path=lowerer.prefix,
        )
        return Handle(graph, node.outputs[0])


def _out_of_place(node: Node, span: Span) -> Mistake:
    """The mistake of a node in a step."""
    if node.op is LOOP:
        return mistakes.LayersInStep(span)
    return mistakes.NotInStep(span, what=f"`{node.op.name}`")
