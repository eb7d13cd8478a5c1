"""Checks of statements that need no values: the names in them, arguments, and where each may stand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from archc.errors import Note, Reporter, Span, did_you_mean
from archc.frontend import mistakes, syntax
from archc.frontend.callees import NOTED, is_callee, match_call
from archc.frontend.elsewhere import import_hint
from archc.frontend.paths import dotted
from archc.frontend.resolve import Module
from archc.frontend.statements import assigned_names, may_return, unknown_dtype
from archc.frontend.syntax import RESERVED_WORDS
from archc.frontend.unknown_names import unknown_name
from archc.frontend.values import Env

ANY = object()  # what stands for a name whose value only lowering knows


class StatementNames:
    """Checks a module's statements.  An `Env` holds what is known of names: callees, and `ANY` otherwise."""

    def __init__(self, module: Module, fusions: Collection[str], reporter: Reporter):
        self.module = module
        self.fusions = fusions
        self.reporter = reporter
        self.hints: dict[str, str] = {}  # why a name that is written somewhere is not known here
        self.sizes: set[str] = set()  # names in shapes
        self.loops: list[str] = []  # variables of the loops around a statement
        self.notes = [name for each in module.with_imports() for name in each.notes()]

    def _report(self, mistake: Any) -> None:
        self.reporter.report(mistake)

    def _declare(self, name: str, span: Span, kind: str) -> None:
        """Note that something is given a name."""
        if name in RESERVED_WORDS:
            reason = "it is a word of the language"
            self._report(mistakes.ReservedName(span, name=name, kind=kind, reason=reason))

    def _unique(self, names: Iterable[tuple[str, Span]], kind: str) -> None:
        seen: dict[str, Span] = {}
        for name, span in names:
            if name in seen:
                notes = [Note("the first of them is here", seen[name])] if seen[name] is not span else []
                self._report(mistakes.DuplicateName(span, kind=kind, name=name, notes=notes))
            seen.setdefault(name, span)

    def _body(self, body: Sequence[syntax.Statement], env: Env) -> None:
        for place, statement in enumerate(body):
            self._statement(statement, env)
            if isinstance(statement, syntax.Return) and place + 1 < len(body):
                self._report(mistakes.AfterReturn(body[place + 1].span))

    def _statement(self, statement: syntax.Statement, env: Env) -> None:
        match statement:
            case syntax.Assign():
                self._assign(statement, env)
            case syntax.Return():
                self._return(statement, env)
            case syntax.If():
                self._branch(statement, env)
            case syntax.For():
                self._loop(statement, env)
            case syntax.Expect():
                self._expect(statement)
            case syntax.Leave():
                self._expr(statement.value, env)

    def _assign(self, statement: syntax.Assign, env: Env) -> None:
        for value in statement.values:
            self._expr(value, env)
        named = [target for target in statement.targets if target.name != syntax.UNNEEDED]
        self._unique([(target.name, target.span) for target in named], "variable")
        for target in statement.targets:
            self._declare(target.name, target.span, "a variable")
            if target.name in self.loops:
                reason = "it is the variable of a loop around this place"
                self._report(
                    mistakes.ReservedName(target.span, name=target.name, kind="a variable", reason=reason)
                )
            self._shape(target.shape, env)
            env.names[target.name] = ANY

    def _return(self, statement: syntax.Return, env: Env) -> None:
        if self.loops:
            self._report(mistakes.ReturnInLoop(statement.span))
        self._unique([(r.name, r.span) for r in statement.results if r.name], "result")
        for result in statement.results:
            self._expr(result.value, env)

    def _branch(self, statement: syntax.If, env: Env) -> None:
        """What either branch assigns may be there afterwards; one does not see what the other assigns."""
        self._expr(statement.condition, env)
        before = dict(env.names)
        self._body(statement.then, env)
        after = env.names
        env.names = before
        self._body(statement.otherwise, env)
        env.names.update(after)

    def _loop(self, statement: syntax.For, env: Env) -> None:
        self._declare(statement.variable, statement.span, "a variable")
        self._expr(statement.items, env)
        inner = Env(env, {statement.variable: ANY})
        self._path(statement.path, inner)
        for name in assigned_names(statement.body):
            self.hints[name] = f"a loop carries what has a value before it: write `{name} = none` there"
        self.loops.append(statement.variable)
        self._body(statement.body, inner)
        self.loops.pop()
        for name in inner.names:
            self.hints[name] = "it is known inside of the `for` only: give it a value before the loop"

    def _expect(self, statement: syntax.Expect) -> None:
        if statement.rule not in self.fusions:
            hint = did_you_mean(statement.rule, self.fusions)
            self._report(mistakes.UnknownName(statement.span, kind="fusion", name=statement.rule, hint=hint))

    def _shape(self, shape: syntax.Shape | None, env: Env) -> None:
        """A name in a shape that means nothing else is a size known when the model runs."""
        if shape is None:
            return
        if mistake := unknown_dtype(shape):
            self._report(mistake)
        for dim in shape.dims:
            if not isinstance(dim, syntax.Name):
                self._expr(dim, env)
            else:
                self.sizes.add(dim.name)

    def _expr(self, expr: syntax.Expr, env: Env) -> None:
        match expr:
            case syntax.Name():
                self._name(expr, env)
            case syntax.Call():
                self._call(expr, env)
            case syntax.ListOf():
                self._all(expr.items, env)
            case syntax.Each():
                self._declare(expr.variable, expr.span, "a variable")
                self._expr(expr.items, env)
                self._expr(expr.item, Env(env, {expr.variable: ANY}))
                self.hints[expr.variable] = "it is known inside of the list only"
            case syntax.Unary():
                self._expr(expr.operand, env)
            case syntax.Binary():
                self._all((expr.left, expr.right), env)
            case syntax.Conditional():
                self._all((expr.chosen, expr.condition), env)
                self._all((expr.other,) if expr.other is not None else (), env)
            case syntax.Index():
                self._all((expr.target, expr.index), env)
            case syntax.Attribute():
                self._expr(expr.target, env)
            case syntax.Experts():
                self._experts(expr, env)
            case syntax.Scan():
                self._scan(expr, env)
            case syntax.Literal():
                pass

    def _experts(self, expr: syntax.Experts, env: Env) -> None:
        self._declare(expr.variable, expr.span, "a variable")
        self._all((expr.chosen, expr.count), env)
        inner = Env(env, {expr.variable: ANY})
        self._path(expr.path, inner)
        self._own_body(expr, inner, "experts")

    def _scan(self, expr: syntax.Scan, env: Env) -> None:
        self._name(expr.over, env)
        self._unique([(state.name, state.span) for state in expr.states], "state")
        for state in expr.states:
            self._declare(state.name, state.span, "a state")
            self._shape(state.shape, env)
            self._all((state.default,) if state.default is not None else (), env)
        inner = Env(env, {state.name: ANY for state in expr.states})
        self._own_body(expr, inner, "scan")

    def _own_body(self, expr: syntax.Experts | syntax.Scan, env: Env, name: str) -> None:
        """A body whose `return` is its own."""
        outside, self.loops = self.loops, []
        self._body(expr.body, env)
        self.loops = outside
        if not may_return(expr.body):
            self._report(mistakes.MissingReturn(expr.span, name=name))

    def _all(self, exprs: Iterable[syntax.Expr], env: Env) -> None:
        for expr in exprs:
            self._expr(expr, env)

    def _name(self, expr: syntax.Name, env: Env) -> None:
        if env.get(expr.name, None) is None and not self.reporter.is_full:
            self._report(unknown_name(expr, env, self._hint(expr.name)))

    def _hint(self, name: str) -> str:
        """Why a name that is written somewhere is not known here, or where it would be."""
        if name not in self.hints and self.module.find_arch(name):
            return "it is an arch, which only a `model` can be of"
        if name not in self.hints and name in self.sizes:
            return "it is a size that only the running model knows"
        return self.hints.get(name) or import_hint(name, self.module)

    def _call(self, call: syntax.Call, env: Env) -> None:
        self._expr(call.callee, env)
        callee: Any = env.get(call.callee.name, ANY) if isinstance(call.callee, syntax.Name) else ANY
        if is_callee(callee):
            given = match_call(callee, call)
            if isinstance(given, mistakes.WrongArguments):
                self._report(given)
        for argument in call.arguments:
            if argument.name == "tied_to":
                self._tie(argument.value, env)
            elif callee is NOTED:
                self._noted(argument.value)
            else:
                self._expr(argument.value, env)
        self._path(call.path, env)

    def _noted(self, expr: syntax.Expr) -> None:
        """`noted` must name what some block notes, though not every model comes to that block."""
        if isinstance(expr, syntax.Name) and expr.name not in self.notes:
            hint = did_you_mean(expr.name, self.notes)
            self._report(mistakes.UnknownName(expr.span, kind="note", name=expr.name, hint=hint))

    def _path(self, path: syntax.Path | None, env: Env) -> None:
        for segment in path.segments if path is not None else ():
            if not isinstance(segment, str):
                self._expr(segment, env)

    def _tie(self, expr: syntax.Expr, env: Env) -> None:
        """Names in `tied_to` are those of a path, which only lowering knows."""
        if isinstance(expr, syntax.Conditional):
            self._expr(expr.condition, env)
            self._tie(expr.chosen, env)
            if expr.other is not None:
                self._tie(expr.other, env)
        elif dotted(expr) is None:
            self._expr(expr, env)
