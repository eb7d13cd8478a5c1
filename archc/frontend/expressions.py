"""Expressions: compile-time values are computed, tensor arithmetic becomes ops."""

from __future__ import annotations

from typing import Any

from archc.errors import Span, did_you_mean
from archc.frontend import arithmetic, mistakes, syntax
from archc.frontend.lowerer import Lowerer, Region
from archc.frontend.unknown_names import unknown_name
from archc.frontend.values import (
    POISON,
    ArithmeticMistake,
    Env,
    Handle,
    List,
    LoopValue,
    Poison,
    Quotient,
    Table,
    counted,
    describe,
    lift,
    peek,
)
from archc.ir.expr import INFIX
from archc.ir.op import OPS
from archc.ir.records import Record, readable
from archc.ir.types import shape_text, taken_type

TENSOR_OPS = {sign: op for op, sign in INFIX.items()}
_COMPARED = "`step(x - y)` is 1 where x > y, else 0"
_POWER = "write `x ** 2 * x`, `sqrt(x)` or `exp(n * log(x))`; a number to the power of x is `exp(x * log(2))`"
_TENSOR_HINTS = {"**": _POWER, ">": _COMPARED, "<": _COMPARED}
_NO_VALUE = "nothing before this place gave it a value; what a loop hands on needs one before the loop"
_UNNAMED = "`_` is what nothing needs: what is used has a name"
_TABLE = "a list of numbers is a tensor beside another tensor; lists in it have equal lengths"
_PLAIN = (int, float, str, tuple, range, Record, type(None))


class Expressions(Lowerer):
    """Evaluation of expressions."""

    def evaluate(self, expr: syntax.Expr, env: Env) -> Any:
        self.spend()
        value = self._evaluate(expr, env)
        if isinstance(value, LoopValue) and not isinstance(value.value, _PLAIN):
            # A tensor, op or block that depends on the iteration: each has its own body.
            return self.known(value)
        return value

    def _evaluate(self, expr: syntax.Expr, env: Env) -> Any:
        match expr:
            case syntax.Literal():
                return expr.value
            case syntax.Name():
                return self._name(expr, env)
            case syntax.ListOf():
                return self._list(expr, env)
            case syntax.Each():
                return self._each(expr, env)
            case syntax.Unary():
                return self._unary(expr, env)
            case syntax.Binary():
                return self._binary(expr, env)
            case syntax.Conditional():
                return self._conditional(expr, env)
            case syntax.Call():
                return self.single(self.call(expr, env), expr.span)
            case syntax.Index():
                return self._index(expr, env)
            case syntax.Attribute():
                return self._attribute(expr, env)
            case syntax.Experts():
                return self.experts(expr, env)
            case syntax.Scan():
                return self.scan(expr, env)

    def single(self, value: Any, span: Span) -> Any:
        """The one value of a call that may have several."""
        if isinstance(value, list):
            if len(value) == 1:
                return value[0]
            if any(isinstance(each, Poison) for each in value):
                return POISON
            return self.report(mistakes.NotSingle(span, found=counted(len(value), "value")))
        return value

    def condition(self, expr: syntax.Expr, env: Env, what: str) -> bool | Poison:
        """A truth value known now."""
        value = self.known(self.evaluate(expr, env))
        if isinstance(value, Handle):
            self.report(mistakes.TensorCondition(expr.span, what=what))
            return POISON
        if isinstance(value, Poison):
            return POISON
        if isinstance(value, bool) or value is None or isinstance(value, int | float):
            return bool(value)
        self.report(
            mistakes.WrongValue(expr.span, what=what, expected="`true` or `false`", found=describe(value))
        )
        return POISON

    def _name(self, expr: syntax.Name, env: Env) -> Any:
        try:
            return env.lookup(expr.name)
        except KeyError:
            if self.reporter.is_full:
                return POISON
            hint = _UNNAMED if expr.name == syntax.UNNEEDED else _NO_VALUE
            return self.report(unknown_name(expr, env, hint))

    def _list(self, expr: syntax.ListOf, env: Env) -> Any:
        items = [value for item in expr.items for value in self._items(item, env)]
        if any(isinstance(item, Poison) for item in items):
            return POISON
        return self._guarded(expr, List.of, *items)

    def _each(self, expr: syntax.Each, env: Env) -> Any:
        items = self.known(self.evaluate(expr.items, env))
        if isinstance(items, Poison):
            return POISON
        if not isinstance(items, tuple | range):
            what, expected = "what a `for` runs over", "a range `0..n` or a list"
            span = expr.items.span
            return self.report(mistakes.WrongValue(span, what=what, expected=expected, found=describe(items)))
        values: list[Any] = []
        for item in items:
            values += self._items(expr.item, Env(env, {expr.variable: item}))
            if any(isinstance(value, Poison) for value in values):
                return POISON
        return self._guarded(expr, List.of, *values)

    def _items(self, expr: syntax.Expr, env: Env) -> list[Any]:
        """What an expression adds to a list: of a call that has several values, all of them."""
        value = self.call(expr, env) if isinstance(expr, syntax.Call) else self.evaluate(expr, env)
        return value if isinstance(value, list) else [value]

    def _index(self, expr: syntax.Index, env: Env) -> Any:
        target, index = self.evaluate(expr.target, env), self.evaluate(expr.index, env)
        if isinstance(target, Handle):
            if self.region is not None and _is_expert(index, self.region):
                return self._at_choice(target, self.region, expr.span)
            return self.report(mistakes.TensorIndex(expr.span, found=target.type))
        return self._compute(expr, arithmetic.item, target, index)

    def _at_choice(self, target: Handle, region: Region, span: Span) -> Any:
        """`x[e]` in `experts e`: of a value for each choice, that of the choice of this expert."""
        if target.type.shape[:3] != (*region.tokens, region.choices) or self.frame.outer is None:
            need = shape_text((*region.tokens, region.choices))
            reason = f"needs a number for each choice, {need}, or a vector, not {target.type}"
            made_here = target.graph is self.frame.graph
            hint = f"compute it before `experts {region.variable} in ...`" if made_here else ""
            op = f"[{region.variable}]"
            return self.report(mistakes.WrongShape(span, op=op, reason=reason, hint=hint))
        outer = self.resolve(target, self.frame.outer)
        if outer not in region.at_choice:
            graph = self.frame.outer.graph
            type_ = taken_type(graph.type(outer), "choice")
            region.at_choice[outer] = self.frame.graph.add_input(graph.name_of(outer), type_, span)
        return Handle(self.frame.graph, region.at_choice[outer])

    def _attribute(self, expr: syntax.Attribute, env: Env) -> Any:
        target = self.evaluate(expr.target, env)
        plain = peek(target)
        if isinstance(plain, Poison):
            return POISON
        if not isinstance(plain, Record):
            hint = f"an op is called: `{expr.name}(x)`" if isinstance(plain, Handle) else None
            return self.report(mistakes.NoFields(expr.span, what=describe(plain), name=expr.name, hint=hint))
        known = readable(plain)
        if expr.name in known:
            return self._guarded(expr, lambda record: _field(record, expr.name), target)
        hint = did_you_mean(expr.name, known)
        return self.report(
            mistakes.UnknownName(expr.span, kind=f"field of `{plain.kind}`:", name=expr.name, hint=hint)
        )

    def _unary(self, expr: syntax.Unary, env: Env) -> Any:
        if expr.operator == "not":
            value = self.condition(expr.operand, env, "the operand of `not`")
            return value if isinstance(value, Poison) else not value
        operand = self.evaluate(expr.operand, env)
        if isinstance(operand, Handle):
            return self.apply(OPS["neg"], [operand], {}, expr.span)[0]
        return self._compute(expr, arithmetic.negative, operand)

    def _binary(self, expr: syntax.Binary, env: Env) -> Any:
        if expr.operator in ("and", "or"):
            return self._logic(expr, env)
        left, right = self.evaluate(expr.left, env), self.evaluate(expr.right, env)
        if isinstance(left, Handle) or isinstance(right, Handle):
            return self._tensor_binary(expr, left, right)
        return self._compute(expr, lambda a, b: arithmetic.binary(expr.operator, a, b), left, right)

    def _logic(self, expr: syntax.Binary, env: Env) -> Any:
        left = self.condition(expr.left, env, f"the left side of `{expr.operator}`")
        if isinstance(left, Poison) or left is (expr.operator == "or"):
            return left
        return self.condition(expr.right, env, f"the right side of `{expr.operator}`")

    def _tensor_binary(self, expr: syntax.Binary, left: Any, right: Any) -> Any:
        if isinstance(left, Poison) or isinstance(right, Poison):
            return POISON
        if expr.operator in ("==", "!=") and (self.known(left) is None or self.known(right) is None):
            return expr.operator == "!="  # there is a tensor, which `none` is not
        if expr.operator == "**" and isinstance(left, Handle) and self.known(right) == 2:
            return self.apply(OPS["square"], [left], {}, expr.span)[0]
        if expr.operator not in TENSOR_OPS:
            hint = _TENSOR_HINTS.get(expr.operator)
            return self.report(mistakes.NoTensorOperator(expr.span, operator=expr.operator, hint=hint))
        left, right = self.table(left, expr.left), self.table(right, expr.right)
        for side in (left, right):
            if not isinstance(side, Handle | Table) and not arithmetic.is_number(self.known(side)):
                what = f"each side of `{expr.operator}`"
                found, hint = describe(side), table_hint(self.known(side))
                return self.report(mistakes.NotATensor(expr.span, what=what, found=found, hint=hint))
        if expr.operator == "/" and not isinstance(right, Handle) and self.known(right) == 0:
            return self.report(
                mistakes.BadArithmetic(expr.span, text=source_text(expr), reason="division by zero")
            )
        return self.apply(OPS[TENSOR_OPS[expr.operator]], [left, right], {}, expr.span)[0]

    def table(self, value: Any, expr: syntax.Expr) -> Any:
        """A value, as a table where it is a list that can stand for a tensor."""
        if not arithmetic.is_table(peek(value)):
            return value
        name = expr.name if isinstance(expr, syntax.Name) else "numbers"
        return self._by_iteration(value, name) or Table(tuple(self.known(value)), name)

    def _by_iteration(self, value: Any, name: str) -> Table | None:
        """The table of all iterations' lists: they stay one layer.  None where not all have such a list."""
        variable = self.frame.variable
        if not isinstance(value, LoopValue) or variable is None or value.variables != {variable}:
            return None
        steps = self.steps[variable]
        self.spend(value.steps * len(steps))
        try:
            lists = List.of(*(value.at({**self.now, variable: step}) for step in steps))
        except (ArithmeticMistake, ValueError):
            return None  # for some other iteration, which may not come here
        return Table(lists, name, variable, steps[0]) if arithmetic.is_table(lists) else None

    def _conditional(self, expr: syntax.Conditional, env: Env) -> Any:
        condition = self.condition(expr.condition, env, "a condition")
        if isinstance(condition, Poison):
            return POISON
        if condition:
            return self.evaluate(expr.chosen, env)
        return self.evaluate(expr.other, env) if expr.other is not None else None

    def _compute(self, expr: syntax.Expr, function: Any, *arguments: Any) -> Any:
        """A compile-time computation, with its failures reported."""
        for argument in arguments:
            if isinstance(argument, Poison):
                return POISON
            if isinstance(argument, Handle):
                what, hint = f"`{source_text(expr)}`", _of_tensors(expr)
                return self.report(mistakes.TensorCondition(expr.span, what=what, hint=hint))
        result = self._guarded(expr, function, *arguments)
        if isinstance(result, Quotient):
            result.expr = expr
        return result

    def _guarded(self, expr: syntax.Expr, function: Any, *arguments: Any) -> Any:
        """The function of values that may depend on loop variables; its failures are reported."""
        self.spend(sum(argument.size for argument in arguments if isinstance(argument, List)))
        try:
            return lift(function, *arguments)
        except ArithmeticMistake as failure:
            return self.report(mistakes.BadArithmetic(expr.span, text=source_text(expr), reason=failure))


def table_hint(value: Any) -> str:
    """How a list can stand for a tensor, where one does not."""
    return _TABLE if isinstance(value, tuple | range) else ""


def _of_tensors(expr: syntax.Expr) -> str | None:
    """The op that does for tensors what a function of values is called for; None where there is none."""
    name = expr.callee.name if isinstance(expr, syntax.Call) and isinstance(expr.callee, syntax.Name) else ""
    op = {"max": "maximum", "min": "minimum"}.get(name)
    return f"of two tensors, or of a tensor and a number, it is `{op}(x, y)`" if op else None


def _is_expert(index: Any, region: Region) -> bool:
    """Whether an index is the variable of the `experts` around it."""
    return isinstance(index, LoopValue) and index.variables == {region.variable} and index.steps == 1


def _field(record: Any, name: str) -> Any:
    """A record's field; another iteration's value may be a record without it, or none at all."""
    if not hasattr(record, name):
        raise ArithmeticMistake(f"{describe(record)} has no field `{name}`")
    try:
        return getattr(record, name)
    except ArithmeticError as error:  # of a field that is computed
        raise ArithmeticMistake(str(error)) from None


def source_text(expr: syntax.Expr) -> str:
    """The source text of an expression, shortened."""
    span = expr.span
    end = span.end_column - 1 if span.end_line == span.line else None
    text = span.source.lines[span.line - 1][span.column - 1 : end]
    return text if len(text) <= 60 else text[:57] + "..."
