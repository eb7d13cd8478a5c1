"""Calls: of ops, blocks, records and compile-time functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_type_hints

from archc.errors import Span
from archc.frontend import arithmetic, mistakes, syntax
from archc.frontend.applications import Applications
from archc.frontend.callees import (
    NOTED,
    QUERIES,
    Arguments,
    Callee,
    is_callee,
    match_call,
    name_of,
    settings_of,
)
from archc.frontend.expressions import table_hint
from archc.frontend.limits import CALL_STEPS, MAX_BLOCK_DEPTH, MAX_REENTRY
from archc.frontend.lowerer import is_prelude
from archc.frontend.values import (
    POISON,
    BlockValue,
    Builtin,
    Env,
    Handle,
    List,
    Poison,
    Table,
    describe,
    peek,
)
from archc.ir.attributes import kind_of
from archc.ir.node import Scope
from archc.ir.op import Op
from archc.ir.paths import Path
from archc.ir.program import KEY_POSITIONS, sequences
from archc.ir.records import Record
from archc.ir.types import DType, TensorType, apart, shape_text

_INTERLEAVED = "what `interleave` makes has no positions: give these tokens as an input, one after another"


class Calls(Applications):
    """Evaluation of calls."""

    def call(self, call: syntax.Call, env: Env) -> Any:
        callee = self.evaluate(call.callee, env)
        if isinstance(callee, Poison):
            return POISON
        if not is_callee(callee):
            return self.report(_not_callable(call, callee, env))
        given = match_call(callee, call)
        if isinstance(given, mistakes.WrongArguments):
            return self.report(given)
        return self._dispatch(callee, call, given, env)

    def _dispatch(self, callee: Callee, call: syntax.Call, given: Arguments, env: Env) -> Any:
        if isinstance(callee, Op):
            return self._call_op(callee, call, given, env)
        if isinstance(callee, BlockValue):
            return self._call_block(callee, call, given, env)
        if call.path is not None:
            self.report(mistakes.UselessPath(call.path.span, what=f"`{name_of(callee)}`"))
        if isinstance(callee, type):
            return self._call_record(callee, call, given, env)
        if callee is NOTED:
            return self.noted(call, given["name"])
        if callee in QUERIES:
            return self._query(callee, call, given["x"], env)
        values = [self.evaluate(argument.value, env) for argument in _in_order(callee, call, given)]
        return self._compute(call, callee.function, *values)

    def _query(self, function: Builtin, call: syntax.Call, argument: syntax.Argument, env: Env) -> Any:
        """A function of a tensor's type or place: `width(x)`, `positions(x)`, `key_positions(x)`."""
        x = self.evaluate(argument.value, env)
        if function.name == "width" and arithmetic.is_table(peek(x)):
            return self._compute(call, arithmetic.width_of, x)
        if not isinstance(x, Handle):
            return self._not_a_tensor("x", function.name, x, argument.span)
        if function.name == "width":
            return self._known_width(x, call.span)
        return self.token_positions(function.name, x, call.span)

    def _known_width(self, x: Handle, span: Span) -> Any:
        if x.type.shape and isinstance(x.type.width, int):
            return x.type.width
        reason = f"needs a known width, not {x.type}"
        return self.report(mistakes.WrongShape(span, op="width", reason=reason))

    def token_positions(self, name: str, x: Handle, span: Span) -> Any:
        """The positions of the tokens along a tensor's second dim: an input of the whole graph.

        In the last sequence, which grows with a cache, keys have a dim of their own.
        """
        *_, outermost = self.frame.outwards()
        graph = outermost.graph
        known = sequences(graph)
        own = next((s for s in known if len(x.type.shape) >= 2 and x.type.shape[:2] == s.dims), None)
        if own is None:
            must = " or ".join(shape_text(sequence.dims) for sequence in known)
            reason = f"{x.type} has no tokens: it must begin with {must}"
            interleaved = any(isinstance(dim, str) and apart(dim)[0] > 1 for dim in x.type.shape[1:2])
            hint = _INTERLEAVED if interleaved else ""
            return self.report(mistakes.WrongShape(span, op=name, reason=reason, hint=hint))
        if not all(isinstance(dim, str) for dim in own.dims):
            reason = f"batch and tokens must be open, as in `[B, T]`, not {shape_text(own.dims)}"
            return self.report(mistakes.WrongShape(span, op=name, reason=reason))
        called = own.called(name)
        for value in graph.inputs:
            if graph.node(value).attributes["name"] == called:
                return Handle(graph, value)
        batch, tokens = own.dims
        shape = (batch, "S" if name == KEY_POSITIONS and own is known[-1] else tokens)
        return Handle(graph, graph.add_input(called, TensorType(shape, DType.I64), span))

    def _call_record(self, record: type[Record], call: syntax.Call, given: Arguments, env: Env) -> Any:
        hints = get_type_hints(record)
        values: dict[str, Any] = {}
        for name, argument in given.items():
            value = self.evaluate(argument.value, env)
            values[name] = self.convert(
                value, kind_of(hints[name]), f"`{name}` of `{record.kind}`", argument.value.span
            )
        if any(isinstance(value, Poison) for value in values.values()):
            return POISON
        names = list(values)
        return self._guarded(
            call, lambda *items: record(**dict(zip(names, items, strict=True))), *values.values()
        )

    def _call_op(self, op: Op, call: syntax.Call, given: Arguments, env: Env) -> Any:
        if call.path is not None and not op.weights:
            self.report(mistakes.UselessPath(call.path.span, what=f"op `{op.name}`"))
        tie = self._take_tie(given, env)
        tensors = [
            tensor
            for name, argument in _operands_of(op, call, given)
            for tensor in (self._operands(op, name, argument, env) if argument else [None])
        ]
        settings = self._settings(op, given, env)
        path = self.path_of(call.path, env) if call.path else None
        if isinstance(tie, Poison) or settings is None or any(isinstance(x, Poison) for x in tensors):
            self._lose(op, path)
            return POISON
        tables = [tensor for tensor in tensors if isinstance(tensor, Table)]
        if tables and not any(isinstance(tensor, Handle) for tensor in tensors):
            return self._not_a_tensor(op.operands[0].name, op.name, tables[0].values, call.span)
        if op.scalar and all(not isinstance(tensor, Handle) for tensor in tensors):
            return self._compute(call, arithmetic.guarded(op.scalar), *tensors)
        with self.tied(tie, self.prefix + (path or ())):
            result = self.apply(op, tensors, settings, call.span, path)
        if isinstance(result, Poison):
            self._lose(op, path)
        return result

    def _lose(self, op: Op, path: Path | None) -> None:
        """Note that a mistake left a call's weights undeclared."""
        if op.weights and path is not None:
            self.lost.add(self.prefix + path)

    def _take_tie(self, given: Arguments, env: Env) -> Path | Poison | Literal[False] | None:
        argument = given.pop("tied_to", None)
        return self.tie_path(argument.value, env) if argument else None

    def _operands(self, op: Op, name: str, argument: syntax.Argument, env: Env) -> list[Any]:
        """What an argument gives an op: one operand, or those of a list where it takes any number of them."""
        value = self.evaluate(argument.value, env)
        items = value if op.variadic and isinstance(value, List) and value else [value]
        return [
            self._operand(op, name, self.table(item, argument.value), argument.value.span) for item in items
        ]

    def _operand(self, op: Op, name: str, value: Any, span: Span) -> Any:
        """A tensor, a number where the op takes numbers for tensors, `none` where it needs no tensor."""
        is_number = op.scalar is not None and arithmetic.is_number(peek(value))
        if is_number or isinstance(value, Handle | Table | Poison):
            return value
        if value is None and any(each.name == name and each.optional for each in op.operands):
            return None
        return self._not_a_tensor(name, op.name, value, span)

    def _not_a_tensor(self, name: str, op: str, value: Any, span: Span) -> Any:
        if isinstance(value, Poison):
            return POISON
        what = f"`{name}` of `{op}`"
        hint = table_hint(peek(value))
        return self.report(mistakes.NotATensor(span, what=what, found=describe(value), hint=hint))

    def _settings(self, op: Op, given: Arguments, env: Env) -> dict[str, Any] | None:
        """Options and attributes, converted; None after a mistake."""
        settings: dict[str, Any] = {}
        for name, attr in settings_of(op).items():
            settings[name] = attr.default
            if name in given:
                argument = given[name].value
                value = self.evaluate(argument, env)
                kept = self.convert(value, attr.kind, f"`{name}` of `{op.name}`", argument.span)
                settings[name] = self.known(kept)
        return None if any(isinstance(value, Poison) for value in settings.values()) else settings

    def _call_block(self, block: BlockValue, call: syntax.Call, given: Arguments, env: Env) -> Any:
        self.spend(CALL_STEPS)
        name = block.block.name
        running = [called for called, _ in self.calls]
        if sum(called is block.block for called in running) >= MAX_REENTRY:
            return self.report(_recursion(block.block, running, call.span))
        if len(running) >= MAX_BLOCK_DEPTH:
            return self.report(mistakes.TooDeep(call.span, limit=f"{MAX_BLOCK_DEPTH} blocks"))
        tie = self._take_tie(given, env)
        if isinstance(tie, Poison):
            return POISON
        arguments = {name: self.evaluate(argument.value, env) for name, argument in given.items()}
        path = self.path_of(call.path, env) if call.path else ()
        # A reader need not be told of the blocks that every spec sees, or of parts without a name in one.
        silent = is_prelude(block.source) or (self.scope is not None and not path)
        scope = self.scope if silent else Scope(name, self.prefix + path, call.span)
        with self.tied(tie, self.prefix + path), self.within(path, scope, named=call.path is not None):
            self.calls.append((block.block, call.span))
            results = self.enter_block(block, arguments)
            self.calls.pop()
        return results

    def enter_block(self, block: BlockValue, arguments: dict[str, Any]) -> Any:
        """Run a block's body on argument values; a list of its results."""
        inner = Env(block.env, is_block=True)
        for parameter in block.block.params:
            if parameter.name in arguments:
                value = arguments[parameter.name]
            else:
                assert parameter.default is not None
                value = self.evaluate(parameter.default, inner)
            inner.names[parameter.name] = value
            if parameter.shape is not None:
                self.check_annotation(parameter.name, parameter.shape, value, inner)
        results = self.run(block.block.body, inner)
        if results is None:
            return self.report(mistakes.MissingReturn(block.block.span, name=block.block.name))
        if not results:
            return POISON
        return self._returned(results, inner)

    def _returned(self, given: Sequence[syntax.Result], env: Env) -> list[Any]:
        """What a block returns: a value each, or all that one call gives."""
        if len(given) == 1 and isinstance(call := given[0].value, syntax.Call):
            values = self.call(call, env)
            return values if isinstance(values, list) else [values]
        return [self.evaluate(result.value, env) for result in given]


def _recursion(block: syntax.Block, running: list[syntax.Block], span: Span) -> mistakes.Recursion:
    """The way from the block's last call to this one."""
    last = max(place for place, called in enumerate(running) if called is block)
    chain = " -> ".join([called.name for called in running[last:]] + [block.name])
    return mistakes.Recursion(span, name=block.name, chain=chain)


def _not_callable(call: syntax.Call, callee: Any, env: Env) -> mistakes.NotCallable:
    hint = ""
    if isinstance(call.callee, syntax.Name) and any(map(is_callee, env.hidden(call.callee.name))):
        hint = f"`{call.callee.name}` was given a value here, which hides what could be called"
    return mistakes.NotCallable(call.callee.span, what=describe(callee), hint=hint)


def _in_order(function: Builtin, call: syntax.Call, given: Arguments) -> list[syntax.Argument]:
    """The arguments of a function in the order of its parameters."""
    return list(call.arguments) if function.variadic else [given[name] for name in function.parameters]


def _operands_of(op: Op, call: syntax.Call, given: Arguments) -> list[tuple[str, syntax.Argument | None]]:
    """The arguments that give an op its operands, in their order."""
    if op.variadic:
        return [(op.operands[0].name if op.operands else "xs", a) for a in call.arguments if a.name is None]
    return [(operand.name, given.get(operand.name)) for operand in op.data_operands]
