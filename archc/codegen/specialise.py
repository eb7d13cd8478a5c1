"""Partial evaluation of a reference function on its own source text.

Known attributes are written into the text, and what they decide disappears: branches, conditional
expressions, variables that only name a known value.  Everything else stays as it was, comments included.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

from archc.ir.records import Record


class _Unknown:
    """The value of an expression that is only known when the model runs."""


_UNKNOWN = _Unknown()
_PRESENT = object()  # the value of an operand that is there: all that is known is that it is not None


@dataclass(frozen=True)
class Specialised:
    """A function with known attributes written in: its statements, and its result if that is all there is."""

    docstring: str
    lines: tuple[str, ...]
    expression: str | None
    result_type: str


def specialise(
    source: str, known: Mapping[str, Any], present: Sequence[str], named: Collection[str] = ()
) -> Specialised:
    """Write `known` values into a function's source; `present` are parameters that are not None.

    Those of the known that are `named` decide as the others do, but their names stay where they are read.
    """
    return _Specialiser(source, known, present, named).run()


@cache
def _parsed(source: str) -> tuple[ast.FunctionDef, tuple[str, ...]]:
    """A function's tree, and the names that it assigns to, as often as it does."""
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    names = (node for node in ast.walk(function) if isinstance(node, ast.Name))
    return function, tuple(name.id for name in names if isinstance(name.ctx, ast.Store))


def _without_unread(lines: list[str]) -> list[str]:
    """Lines without assignments to a variable that only a branch read which is not there."""
    targets = {line: line.strip().partition(" = ")[0] for line in lines if " = " in line}
    text = "\n".join(lines)
    unread = {line for line, name in targets.items() if len(re.findall(rf"\b{re.escape(name)}\b", text)) == 1}
    return [line for line in lines if line not in unread or not targets[line].isidentifier()]


class _Specialiser:
    def __init__(self, source: str, known: Mapping[str, Any], present: Sequence[str], named: Collection[str]):
        self.source = source
        self.named = named
        self.lines = source.split("\n")
        self.starts = list(accumulate((len(line) + 1 for line in self.lines), initial=0))
        self.function, stores = _parsed(source)
        self.known: dict[str, Any] = {**dict.fromkeys(present, _PRESENT), **known}
        self._assigned_once = {name for name in stores if stores.count(name) == 1}
        for name in stores:  # a parameter that is assigned to is not what it was
            if self.known.get(name) is _PRESENT:
                del self.known[name]

    def run(self) -> Specialised:
        docstring, body = ast.get_docstring(self.function, clean=False) or "", self.function.body
        if docstring:
            body = body[1:]
        lines = _without_unread(self._block(body)[0])
        returns = self.function.returns
        only = lines[0].strip().removeprefix("return ") if len(lines) == 1 else None
        result_type = self._segment(returns) if returns is not None else ""
        return Specialised(docstring, tuple(lines), only, result_type)

    def _block(self, statements: Sequence[ast.stmt]) -> tuple[list[str], bool]:
        """The lines of statements at the indent of a function's body; whether they end in a return."""
        lines: list[str] = []
        for statement in statements:
            written, returned = self._statement(statement)
            lines += written
            if returned:
                return lines, True
        return lines, False

    def _statement(self, statement: ast.stmt) -> tuple[list[str], bool]:
        if isinstance(statement, ast.If):
            test = self._value(statement.test)
            if test is not _UNKNOWN:
                return self._block(statement.body if test else statement.orelse)
        if isinstance(statement, ast.Assign) and self._absorb(statement):
            return [], False
        if isinstance(statement, ast.For):
            head = f"for {self._segment(statement.target)} in {self._text_or_value(statement.iter)}:"
            body, _ = self._block(statement.body)
            return [f"    {head}", *("    " + line for line in body)], False
        text = self._text(statement)
        indent = " " * 4
        shift = statement.col_offset
        body = [line[shift:] if line[:shift].isspace() else line for line in text.split("\n")]
        comments = [indent + line.strip() for line in self._comments_above(statement)]
        return [*comments, *(indent + line for line in body)], isinstance(statement, ast.Return)

    def _absorb(self, assign: ast.Assign) -> bool:
        """A variable that gets a known value, once, is written as that value."""
        target = assign.targets[0]
        value = self._value(assign.value)
        if isinstance(target, ast.Name) and target.id in self._assigned_once and value is not _UNKNOWN:
            self.known[target.id] = value
            return True
        return False

    def _comments_above(self, statement: ast.stmt) -> list[str]:
        first = statement.lineno - 1
        while first > 0 and self.lines[first - 1].strip().startswith("#"):
            first -= 1
        return self.lines[first : statement.lineno - 1]

    def _text(self, node: ast.AST) -> str:
        """The source of a node with all that is known written in."""
        text = self._segment(node)
        start, _ = self._extent(node)
        for child, replacement in reversed(self._edits(node)):
            begin, end = self._extent(child)
            text = text[: begin - start] + replacement + text[end - start :]
        return text

    def _edits(self, node: ast.AST) -> list[tuple[ast.AST, str]]:
        """Outermost parts of a node that change, in order, with what they become."""
        edits: list[tuple[ast.AST, str]] = []
        for child in ast.iter_child_nodes(node):
            replacement = self._replacement(child)
            if replacement is not None:
                edits.append((child, replacement))
            else:
                edits += self._edits(child)
        return edits

    def _replacement(self, node: ast.AST) -> str | None:
        if not isinstance(node, ast.expr) or isinstance(node, ast.Constant):
            return None
        if isinstance(node, ast.Name) and node.id in self.named:
            return None
        value = self._value(node)
        if value is not _UNKNOWN and value is not _PRESENT and not isinstance(value, Record):
            return literal(value)
        if isinstance(node, ast.IfExp):
            test = self._value(node.test)
            if test is not _UNKNOWN:
                return self._text_or_value(node.body if test else node.orelse)
        if isinstance(node, ast.Call):
            return self._shorter_call(node)
        return None

    def _text_or_value(self, node: ast.expr) -> str:
        return self._replacement(node) or self._text(node)

    def _shorter_call(self, call: ast.Call) -> str | None:
        """A call without its last arguments where those are None."""
        kept = list(call.args)
        while kept and self._value(kept[-1]) is None:
            kept.pop()
        if len(kept) == len(call.args):
            return None
        arguments = [self._text_or_value(argument) for argument in (*kept, *(k.value for k in call.keywords))]
        return f"{self._text(call.func)}({', '.join(arguments)})"

    def _value(self, node: ast.expr) -> Any:
        """What an expression is, as far as it is known."""
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self.known.get(node.id, _UNKNOWN)
            case ast.Attribute():
                inner = self._value(node.value)
                return getattr(inner, node.attr) if isinstance(inner, Record) else _UNKNOWN
            case ast.Compare(ops=[operator], comparators=[right]):
                return self._comparison(operator, self._value(node.left), self._value(right))
            case ast.UnaryOp(op=ast.Not()):
                inner = self._value(node.operand)
                return inner if inner in (_UNKNOWN, _PRESENT) else not inner
            case ast.BoolOp(op=ast.And()):
                values = [self._value(each) for each in node.values]
                return _UNKNOWN if _UNKNOWN in values else all(values)
            case ast.BoolOp(op=ast.Or()):
                first = self._value(node.values[0])
                return self._value(node.values[1]) if first is None else first
            case ast.Call(func=ast.Name(id="isinstance"), args=[value, ast.Name(id=kind)]):
                inner = self._value(value)
                return _UNKNOWN if inner in (_UNKNOWN, _PRESENT) else _is_of(inner, kind)
            case ast.Call(func=ast.Attribute(value=target, attr=method), args=args, keywords=[]):
                inner, given = self._value(target), [self._value(argument) for argument in args]
                known = isinstance(inner, Record) and not any(g is _UNKNOWN or g is _PRESENT for g in given)
                return getattr(inner, method)(*given) if known else _UNKNOWN
        return _UNKNOWN

    def _comparison(self, operator: ast.cmpop, left: Any, right: Any) -> Any:
        if left is _UNKNOWN or right is _UNKNOWN:
            return _UNKNOWN
        if isinstance(operator, ast.Is | ast.IsNot):
            return (left is right) is isinstance(operator, ast.Is)
        if isinstance(operator, ast.Eq | ast.NotEq) and _PRESENT not in (left, right):
            return (left == right) is isinstance(operator, ast.Eq)
        return _UNKNOWN

    def _segment(self, node: ast.AST) -> str:
        begin, end = self._extent(node)
        return self.source[begin:end]

    def _extent(self, node: ast.AST) -> tuple[int, int]:
        """Where a node begins and ends in the source; sources are ASCII, so that columns are characters."""
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin = self.starts[node.lineno - 1] + node.col_offset
        return begin, self.starts[node.end_lineno - 1] + node.end_col_offset


def _is_of(value: Any, kind: str) -> bool:
    """`isinstance` by the class's name; a size is an int."""
    return kind in (base.__name__ for base in type(value).__mro__)


def literal(value: Any) -> str:
    """A known value as Python, in black's style."""
    if isinstance(value, tuple):
        items = ", ".join(map(literal, value))
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, bool) or value is None:
        return str(value)
    return repr(int(value)) if isinstance(value, int) else repr(float(value))
