"""Statements: assignments, compile-time branches, returns, and the checks of shape annotations."""

from __future__ import annotations

from typing import Any

from archc.errors import Note, did_you_mean
from archc.frontend import mistakes, syntax
from archc.frontend.calls import Calls
from archc.frontend.values import POISON, Env, Handle, Poison, counted, describe, peek
from archc.ir.attributes import Width, kind_of
from archc.ir.ops.structure import INPUT
from archc.ir.program import Expectation
from archc.ir.types import Dim, DType, shape_text

DTYPES = {"float": DType.FLOAT, "f32": DType.F32, "int": DType.I64, "bool": DType.BOOL}


class Statements(Calls):
    """Running of statements.  Loops are in loops.py."""

    expectations: dict[Expectation, None]  # in order, each once

    def run(self, body: tuple[syntax.Statement, ...], env: Env) -> tuple[syntax.Result, ...] | None:
        for statement in body:
            results = self._statement(statement, env)
            if results is not None:
                return results
        return None

    def _statement(self, statement: syntax.Statement, env: Env) -> tuple[syntax.Result, ...] | None:
        match statement:
            case syntax.Assign():
                self._assign(statement, env)
            case syntax.Return():
                return statement.results
            case syntax.If():
                return self._branch(statement, env)
            case syntax.For():
                self.loop(statement, env)
            case syntax.Expect():
                self.expectations[Expectation(statement.rule, statement.span)] = None
            case syntax.Leave():
                self.leave(statement, env)
        return None

    def _branch(self, statement: syntax.If, env: Env) -> tuple[syntax.Result, ...] | None:
        condition = self.condition(statement.condition, env, "a condition")
        if isinstance(condition, Poison):
            for name in assigned_names((*statement.then, *statement.otherwise)):
                env.names[name] = POISON
            return () if may_return((*statement.then, *statement.otherwise)) else None
        return self.run(statement.then if condition else statement.otherwise, env)

    def _assign(self, statement: syntax.Assign, env: Env) -> None:
        values = self._values(statement, env)
        targets = statement.targets
        if len(values) != len(targets):
            if not any(isinstance(value, Poison) for value in values):
                names, found = counted(len(targets), "name"), counted(len(values), "value")
                more = len(values) > len(targets)
                hint = "give each a name: `a, b = ...`, `_` to one that nothing needs" if more else ""
                hint += "; `[...]` around the call is a list of them" if len(targets) == 1 else ""
                self.report(mistakes.WrongCount(statement.span, names=names, values=found, hint=hint))
            values = [POISON] * len(targets)
        for target, value in zip(targets, values, strict=True):
            self._bind(target, value, env)

    def _values(self, statement: syntax.Assign, env: Env) -> list[Any]:
        if len(statement.values) > 1:
            return [self.evaluate(value, env) for value in statement.values]
        only = statement.values[0]
        value = self.call(only, env) if isinstance(only, syntax.Call) else self.evaluate(only, env)
        if isinstance(value, list):
            return value
        if isinstance(peek(value), tuple) and len(statement.targets) > 1:
            return list(self.known(value))
        return [value]

    def _bind(self, target: syntax.Target, value: Any, env: Env) -> None:
        if target.name != syntax.UNNEEDED:
            env.names[target.name] = value
        if isinstance(value, Handle):
            self._remember_name(value, target.name)
        if target.shape is not None:
            self.check_annotation(target.name, target.shape, value, env)

    def _remember_name(self, handle: Handle, name: str) -> None:
        """Let the node remember what the spec calls its value, the first name given."""
        node = handle.graph.node(handle.value)
        names = list(node.names) + [""] * (len(node.types) - len(node.names))
        if not names[handle.value.output]:
            names[handle.value.output] = name
            handle.graph.update(node, names=tuple(names))

    def check_annotation(self, name: str, shape: syntax.Shape, value: Any, env: Env) -> None:
        """Compare a value with its shape annotation."""
        if isinstance(value, Poison):
            return
        if not isinstance(value, Handle):
            self.report(mistakes.NotATensor(shape.span, what=f"`{name}`", found=describe(value)))
            return
        dims = self.dims(shape, env)
        dtype = self.dtype(shape)
        type_ = value.type
        if dims is None or (type_.shape == dims and dtype in (None, type_.dtype)):
            return
        expected = f"{shape.dtype or ''}{shape_text(dims)}"
        unknown = [dim for dim in dims if isinstance(dim, str) and dim not in type_.shape]
        near = did_you_mean(unknown[0], env.defined()) if unknown else ""
        hint = f"`{unknown[0]}` is no number here; {near}" if near else ""
        node = value.graph.node(value.value)
        self.report(
            mistakes.WrongAnnotation(
                shape.span,
                name=name,
                expected=expected,
                found=type_,
                hint=hint,
                notes=[Note(f"made here by `{node.op.name}`", node.span)] if node.op is not INPUT else [],
            )
        )

    def dims(self, shape: syntax.Shape, env: Env) -> tuple[Dim, ...] | None:
        """The dims of an annotation; names that mean nothing else are symbolic.  None after a mistake."""
        dims: list[Dim] = []
        for expr in shape.dims:
            if isinstance(expr, syntax.Name) and expr.name not in env.known():
                dims.append(expr.name)
                continue
            value = self.known(self.evaluate(expr, env))
            if isinstance(value, Poison):
                return None
            size = self.convert(value, kind_of(Width), "a dim", expr.span)
            if isinstance(size, Poison):
                return None
            dims.append(size)
        return tuple(dims)

    def dtype(self, shape: syntax.Shape) -> DType | None:
        """The dtype of an annotation, None where it says none or an unknown one, which is reported."""
        if mistake := unknown_dtype(shape):
            self.report(mistake)
        return DTYPES.get(shape.dtype) if shape.dtype else None


def unknown_dtype(shape: syntax.Shape) -> mistakes.UnknownName | None:
    """What is wrong with the dtype of an annotation."""
    if shape.dtype is None or shape.dtype in DTYPES:
        return None
    hint = f"dtypes are {', '.join(DTYPES)}"
    return mistakes.UnknownName(shape.span, kind="dtype", name=shape.dtype, hint=hint)


def may_return(body: tuple[syntax.Statement, ...]) -> bool:
    """Whether there is a `return` among statements, branches included."""
    return any(
        isinstance(statement, syntax.Return)
        or (isinstance(statement, syntax.If) and may_return((*statement.then, *statement.otherwise)))
        for statement in body
    )


def assigned_names(body: tuple[syntax.Statement, ...]) -> list[str]:
    """Every name that statements may assign, each once, in order."""
    names: dict[str, None] = {}
    for statement in body:
        match statement:
            case syntax.Assign():
                targets = (target.name for target in statement.targets)
                names.update((name, None) for name in targets if name != syntax.UNNEEDED)
            case syntax.If():
                names.update((name, None) for name in assigned_names((*statement.then, *statement.otherwise)))
            case syntax.For():
                names.update((name, None) for name in assigned_names(statement.body))
            case _:
                pass
    return list(names)
