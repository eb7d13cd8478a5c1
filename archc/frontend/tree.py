"""Lark's parse tree -> the dataclasses of syntax.py.  One method a grammar rule."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

from lark import Token, Tree

from archc.errors import Mistake, Source, Span
from archc.frontend import mistakes, syntax
from archc.frontend.limits import MAX_INTEGER, MAX_NESTING
from archc.frontend.values import counted

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class RefusedError(Exception):
    """A part of a syntax tree that breaks a limit."""

    def __init__(self, mistake: Mistake):
        super().__init__()
        self.mistake = mistake


class TreeBuilder:
    """Builds the syntax tree of one source; `RefusedError` where it breaks a limit."""

    def __init__(self, source: Source):
        self.source = source
        self.depth = 0

    def build(self, tree: Any) -> syntax.Spec:
        return syntax.Spec(self._span(tree), self._members(tree.children))

    def _node(self, tree: Any) -> Any:
        if tree is None:
            return None
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise RefusedError(mistakes.TooDeep(self._span(tree), limit=MAX_NESTING))
        method = cast(Callable[[Any], Any], getattr(self, f"_{tree.data}"))
        node = method(tree)
        self.depth -= 1
        return node

    def _nodes(self, trees: list[Any]) -> tuple[Any, ...]:
        return tuple(self._node(tree) for tree in trees if tree is not None)

    def _span(self, tree: Any) -> Span:
        place: Any = tree if isinstance(tree, Token) else tree.meta
        if getattr(place, "line", None) is None:  # an empty rule, such as `()`
            return Span(self.source, 1, 1, 1, 1)
        return Span(self.source, place.line, place.column, place.end_line, place.end_column)

    def _import_(self, tree: Any) -> syntax.Import:
        return syntax.Import(self._span(tree.children[0]), str(tree.children[0]))

    def _members(self, trees: list[Any]) -> tuple[Any, ...]:
        """Items of a spec or an arch; what defines several constants counts as so many."""
        nodes = (self._node(tree) for tree in trees)
        return tuple(each for node in nodes for each in (node if isinstance(node, tuple) else (node,)))

    def _define(self, tree: Any) -> tuple[syntax.Define, ...]:
        names = [child for child in tree.children if isinstance(child, Token)]
        values = [child for child in tree.children if not isinstance(child, Token)]
        if len(names) != len(values):
            given, found = counted(len(names), "name"), counted(len(values), "value")
            raise RefusedError(mistakes.WrongCount(self._span(tree), names=given, values=found))
        pairs = zip(names, values, strict=True)
        return tuple(syntax.Define(self._span(name), str(name), self._node(value)) for name, value in pairs)

    def _arch(self, tree: Any) -> syntax.Arch:
        name, params, *members = tree.children
        return syntax.Arch(self._span(name), str(name), self._node(params), self._members(members))

    def _block(self, tree: Any) -> syntax.Block:
        name, params, body = tree.children
        return syntax.Block(self._span(name), str(name), self._node(params), self._node(body))

    def _forward(self, tree: Any) -> syntax.Block:
        params, body = tree.children
        start = self._span(tree)
        keyword = Span(self.source, start.line, start.column, start.line, start.column + len("forward"))
        return syntax.Block(keyword, "forward", self._node(params), self._node(body))

    def _fuse(self, tree: Any) -> syntax.Fuse:
        name, operands, attributes, body = tree.children
        return syntax.Fuse(
            self._span(name),
            str(name),
            self._node(operands),
            self._node(attributes) or (),
            self._node(body),
        )

    def _model(self, tree: Any) -> syntax.Model:
        name, arch, arguments, root = tree.children
        given = self._node(arguments)
        return syntax.Model(self._span(name), str(name), str(arch), self._span(arch), given, self._node(root))

    def _root(self, tree: Any) -> syntax.Root:
        replaced, path = tree.children
        return syntax.Root(self._span(tree), self._node(path), None if replaced is None else str(replaced))

    def _expect(self, tree: Any) -> syntax.Expect:
        return syntax.Expect(self._span(tree.children[0]), str(tree.children[0]))

    def _ignore(self, tree: Any) -> syntax.Ignore:
        return syntax.Ignore(self._span(tree), self._node(tree.children[0]))

    def _names(self, tree: Any) -> tuple[str, ...]:
        return tuple(str(name) for name in tree.children)

    def _params(self, tree: Any) -> tuple[syntax.Param, ...]:
        return self._nodes(tree.children)

    def _param(self, tree: Any) -> syntax.Param:
        name, shape, default = tree.children
        return syntax.Param(self._span(name), str(name), self._node(shape), self._node(default))

    def _shape(self, tree: Any) -> syntax.Shape:
        dtype, *dims = tree.children
        return syntax.Shape(self._span(tree), str(dtype) if dtype else None, self._nodes(dims))

    def _body(self, tree: Any) -> tuple[syntax.Statement, ...]:
        return self._nodes(tree.children)

    def _assign(self, tree: Any) -> syntax.Assign:
        targets = [child for child in tree.children if _is_target(child)]
        values = [child for child in tree.children if not _is_target(child)]
        return syntax.Assign(self._span(tree), self._nodes(targets), self._nodes(values))

    def _target(self, tree: Any) -> syntax.Target:
        name, shape = tree.children
        return syntax.Target(self._span(name), str(name), self._node(shape))

    def _return_(self, tree: Any) -> syntax.Return:
        return syntax.Return(self._span(tree), self._nodes(tree.children))

    def _result(self, tree: Any) -> syntax.Result:
        name, value = tree.children
        return syntax.Result(self._span(tree), str(name) if name else None, self._node(value))

    def _if_(self, tree: Any) -> syntax.If:
        _, condition, then, otherwise = tree.children
        nested = self._node(otherwise) if otherwise is not None else ()
        if isinstance(nested, syntax.If):
            nested = (nested,)
        return syntax.If(self._span(tree), self._node(condition), self._node(then), nested)

    def _leave(self, tree: Any) -> syntax.Leave:
        kind, name, value = tree.children
        return syntax.Leave(self._span(tree), str(kind), str(name), self._node(value))

    def _for_(self, tree: Any) -> syntax.For:
        variable, items, _, path, body = tree.children
        return syntax.For(
            self._span(tree), str(variable), self._node(items), self._node(path), self._node(body)
        )

    def _number(self, tree: Any) -> syntax.Literal:
        text = str(tree.children[0]).replace("_", "")
        unit = _UNITS.get(text[-1], 1)
        digits = text.rstrip("KMGT")
        value = int(digits) if digits.isdigit() and len(digits) < 40 else float(digits)
        scaled = value * unit
        if abs(scaled) > (MAX_INTEGER if isinstance(scaled, int) else sys.float_info.max):
            shown = text if len(text) <= 40 else f"{len(text)} digits"
            limit = "2^63" if isinstance(scaled, int) else f"{sys.float_info.max:.2g}"
            mistake = mistakes.TooLarge(self._span(tree), what="a number", value=shown, limit=limit)
            raise RefusedError(mistake)
        if isinstance(scaled, float) and unit > 1 and scaled.is_integer():
            scaled = int(scaled)
        return syntax.Literal(self._span(tree), scaled)

    def _string(self, tree: Any) -> syntax.Literal:
        return syntax.Literal(self._span(tree), str(tree.children[0])[1:-1])

    def _true(self, tree: Any) -> syntax.Literal:
        return syntax.Literal(self._span(tree), True)

    def _false(self, tree: Any) -> syntax.Literal:
        return syntax.Literal(self._span(tree), False)

    def _none(self, tree: Any) -> syntax.Literal:
        return syntax.Literal(self._span(tree), None)

    def _name(self, tree: Any) -> syntax.Name:
        return syntax.Name(self._span(tree), str(tree.children[0]))

    def _list(self, tree: Any) -> syntax.ListOf:
        return syntax.ListOf(self._span(tree), self._nodes(tree.children))

    def _each(self, tree: Any) -> syntax.Each:
        item, variable, items = tree.children
        return syntax.Each(self._span(tree), self._node(item), str(variable), self._node(items))

    def _negative(self, tree: Any) -> syntax.Unary:
        return syntax.Unary(self._span(tree), "-", self._node(tree.children[-1]))

    def _not_(self, tree: Any) -> syntax.Unary:
        return syntax.Unary(self._span(tree), "not", self._node(tree.children[-1]))

    def _binary(self, tree: Any) -> syntax.Binary:
        left, operator, right = tree.children
        return syntax.Binary(self._span(tree), str(operator), self._node(left), self._node(right))

    def _two(self, tree: Any, operator: str) -> syntax.Binary:
        left, right = tree.children
        return syntax.Binary(self._span(tree), operator, self._node(left), self._node(right))

    def _power(self, tree: Any) -> syntax.Binary:
        return self._two(tree, "**")

    def _or_(self, tree: Any) -> syntax.Binary:
        return self._two(tree, "or")

    def _and_(self, tree: Any) -> syntax.Binary:
        return self._two(tree, "and")

    def _contains(self, tree: Any) -> syntax.Binary:
        return self._two(tree, "in")

    def _lacks(self, tree: Any) -> syntax.Binary:
        return self._two(tree, "not in")

    def _range(self, tree: Any) -> syntax.Binary:
        return self._two(tree, "..")

    def _experts(self, tree: Any) -> syntax.Experts:
        _, variable, chosen, count, _, path, apart, body = tree.children
        return syntax.Experts(
            self._span(tree),
            str(variable),
            self._node(chosen),
            self._node(count),
            self._node(path),
            apart is not None,
            self._node(body),
        )

    def _scan(self, tree: Any) -> syntax.Scan:
        _, over, _, states, body = tree.children
        name = syntax.Name(self._span(over), str(over))
        return syntax.Scan(self._span(tree), name, self._node(states), self._node(body))

    def _conditional(self, tree: Any) -> syntax.Conditional:
        chosen, _, condition, *other = tree.children
        return syntax.Conditional(
            self._span(tree),
            self._node(condition),
            self._node(chosen),
            self._node(other[0]) if other else None,
        )

    def _call(self, tree: Any) -> syntax.Call:
        callee, arguments, *path = tree.children
        return syntax.Call(
            self._span(tree),
            self._node(callee),
            self._node(arguments),
            self._node(path[0]) if path else None,
        )

    def _arguments(self, tree: Any) -> tuple[syntax.Argument, ...]:
        return self._nodes(tree.children)

    def _argument(self, tree: Any) -> syntax.Argument:
        name, value = tree.children
        return syntax.Argument(self._span(tree), str(name) if name else None, self._node(value))

    def _index(self, tree: Any) -> syntax.Index:
        target, index = tree.children
        return syntax.Index(self._span(tree), self._node(target), self._node(index))

    def _attribute(self, tree: Any) -> syntax.Attribute:
        target, name = tree.children
        return syntax.Attribute(self._span(tree), self._node(target), str(name))

    def _path(self, tree: Any) -> syntax.Path:
        return syntax.Path(self._span(tree), tuple(self._segment_of(child) for child in tree.children))

    def _segment_of(self, child: Any) -> str | syntax.Expr:
        (inner,) = child.children
        return str(inner).strip('"') if isinstance(inner, Token) else cast(syntax.Expr, self._node(inner))


def _is_target(child: Any) -> bool:
    return isinstance(child, Tree) and str(child.data) == "target"
