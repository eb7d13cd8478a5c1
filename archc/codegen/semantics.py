"""The ops' reference functions as text, specialised to a model.

An attribute that has one value in all of a model is written into the function; a function that is a single
expression by then is written in place of its calls.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from archc.codegen.specialise import Specialised, specialise
from archc.ir.node import Node
from archc.ir.op import Op
from archc.ir.records import Record

_Key = tuple[Any, ...]  # of an op's name, and what else its function follows from

_MAX_INLINE = 80
_KEPT = 1024  # of what is found once for all models: they use the same ops, mostly in the same way


@dataclass(frozen=True)
class Use:
    """One call of an op: which operands it has, and its attributes."""

    op: Op
    present: tuple[bool, ...]
    attributes: tuple[tuple[str, Any], ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the operands that are there."""
        if self.op.variadic:
            return ("xs",)
        return tuple(o.name for o, there in zip(self.op.operands, self.present, strict=False) if there)

    @property
    def absent(self) -> tuple[str, ...]:
        """The names of the operands that are not."""
        if self.op.variadic:
            return ()
        return tuple(o.name for o, there in zip(self.op.operands, self.present, strict=False) if not there)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names of the attributes that are numbers, or lists of them: a call writes them by name."""
        return tuple(name for name, value in self.attributes if _is_number(value))

    def specialised(self, fixed: Mapping[str, Any], named: Sequence[str] = ()) -> Specialised:
        """The reference function with attributes, but those `named`, and absent operands written into it."""
        present = [name for name in self.parameters if name not in self.carried]
        return specialise(_source_of(self.op), {**fixed, **dict.fromkeys(self.absent)}, present, named)

    @property
    def carried(self) -> tuple[str, ...]:
        """Operands that are there with a cache, and not without."""
        return ("state",) if self.op.carries else ()


def _is_number(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(map(_is_number, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def use_of(node: Node) -> Use:
    """The node as a use of its op's reference function."""
    return Use(
        node.op,
        tuple(value is not None for value in node.inputs),
        tuple((name, node.attributes[name]) for name in node.op.attributes),
    )


@dataclass(frozen=True)
class Function:
    """An op's reference function for some model; `keywords` are attributes that differ from call to call."""

    name: str
    source: str
    keywords: tuple[str, ...]


class Semantics:
    """The reference functions of all ops that a model uses."""

    def __init__(self, uses: Sequence[Use]):
        self._inline = {use: text for use in dict.fromkeys(uses) if (text := _inlined(use)) is not None}
        groups: dict[_Key, list[Use]] = {}
        for use in dict.fromkeys(uses):
            if use not in self._inline:
                groups.setdefault(_group_key(use), []).append(use)
        names = {key: _function_name(key, list(groups)) for key in groups}
        self._functions = {key: _function(names[key], tuple(members)) for key, members in groups.items()}

    @property
    def sources(self) -> dict[str, str]:
        """The functions' texts by name."""
        return {function.name: function.source for function in self._functions.values()}

    def name(self, use: Use) -> str:
        """The function of a use that is not written in place of its calls."""
        return self._functions[_group_key(use)].name

    def names(self, op: str) -> tuple[str, ...]:
        """The functions of an op."""
        return tuple(function.name for key, function in self._functions.items() if key[0] == op)

    def call(
        self, use: Use, operands: Sequence[str], attribute_texts: Mapping[str, str], home: str = ""
    ) -> str:
        """The call as an expression; `operands` are expressions, those absent left out.

        `home` is where the functions are found, such as "reference.".
        """
        if use in self._inline:
            if use.op.variadic:
                operands = [f"[{', '.join(operands)}]"]
            texts = {name: attribute_texts[name] for name in use.numbers}
            return _substitute(self._inline[use], texts | dict(zip(use.parameters, operands, strict=True)))
        function = self._functions[_group_key(use)]
        arguments = [*operands, *(f"{name}={attribute_texts[name]}" for name in function.keywords)]
        return f"{home}{function.name}({', '.join(arguments)})"

    def call_once(self, use: Use, operands: Sequence[str], attribute_texts: Mapping[str, str]) -> str:
        """The call made once for a cache, where the function is one of its own for these attributes."""
        if use in self._inline or self._functions[_group_key(use)].keywords:
            return self.call(use, operands, attribute_texts)
        return f"once(cache, {', '.join([self._functions[_group_key(use)].name, *operands])})"

    def written_twice(self, use: Use) -> tuple[bool, ...]:
        """For each operand, whether a call writes it more than once: it had better be a name then."""
        if use not in self._inline or use.op.variadic:
            return (False,) * len(use.parameters)
        names = [name for _, _, name, _ in _places_in(self._inline[use], use.parameters)]
        return tuple(names.count(parameter) > 1 for parameter in use.parameters)


def _group_key(use: Use) -> _Key:
    """Uses that can share a function: all attributes but numbers, and absent operands, must agree."""
    structured = tuple((name, value) for name, value in use.attributes if not isinstance(value, float))
    return use.op.name, use.present, structured


def _function_name(key: _Key, keys: Sequence[_Key]) -> str:
    """The op's name; where a model needs several functions for one op, what sets this one apart."""
    name: str = key[0]
    rivals = [other for other in keys if other[0] == name]
    if len(rivals) == 1:
        return name
    if len({_kinds(other) for other in rivals}) == len(rivals) and _kinds(key):
        return "_".join((name, *_kinds(key)))
    return f"{name}_{rivals.index(key) + 1}"


def _kinds(key: _Key) -> tuple[str, ...]:
    return tuple(value.kind for _, value in key[2] if isinstance(value, Record))


@lru_cache(maxsize=_KEPT)
def _inlined(use: Use) -> str | None:
    """The use as an expression over its parameters, where it is a short one."""
    expression = use.specialised(dict(use.attributes), use.numbers).expression
    return expression if expression is not None and len(expression) <= _MAX_INLINE else None


@lru_cache(maxsize=_KEPT)
def _function(name: str, uses: tuple[Use, ...]) -> Function:
    """One function for several uses: what is the same in all of them is written into it."""
    first = uses[0]
    fixed = {
        attribute: value
        for attribute, value in first.attributes
        if all(dict(use.attributes)[attribute] == value for use in uses)
    }
    keywords = tuple(attribute for attribute, _ in first.attributes if attribute not in fixed)
    special = first.specialised(fixed)
    parameters = [f"{name}: Tensor{' | None' * (name in first.carried)}" for name in first.parameters]
    if keywords:
        parameters += ["*", *(f"{k}: {_annotation(first.op, k)}" for k in keywords)]
    head = f"def {name}({', '.join(parameters)}) -> {special.result_type}:"
    doc = _trimmed(special.docstring, {*fixed, *first.absent})
    return Function(name, "\n".join([head, f'    """{doc}"""', *special.lines]), keywords)


def _annotation(op: Op, attribute: str) -> str:
    parameter = inspect.signature(op.reference).parameters[attribute]
    return "float" if parameter.annotation is float else "int"


def _trimmed(docstring: str, fixed: set[str]) -> str:
    """Without the paragraphs that explain attributes and operands which have become part of the function."""
    summary, *paragraphs = docstring.rstrip().split("\n\n")
    kept = [text for text in paragraphs if not any(f"`{name}`" in text for name in fixed)]
    return "\n\n".join([summary, *kept]) + ("\n    " if kept else "")


@cache
def _source_of(op: Op) -> str:
    """The function as it is declared, without its decorator."""
    source = textwrap.dedent(inspect.getsource(op.reference))
    return source[source.index(f"def {op.reference.__name__}(") :]


_STRENGTH: dict[type[ast.AST], int] = {
    ast.IfExp: 0,
    ast.Compare: 1,
    ast.BitOr: 2,
    ast.BitAnd: 3,
    ast.Add: 4,
    ast.Sub: 4,
    ast.Mult: 5,
    ast.Div: 5,
    ast.FloorDiv: 5,
    ast.MatMult: 5,
    ast.UnaryOp: 6,
    ast.Pow: 7,
}
_ATOM = 9


def _substitute(expression: str, operands: Mapping[str, str]) -> str:
    """The expression with operands in place of parameters, in parentheses where they need them."""
    for start, end, name, binding in reversed(_places_in(expression, tuple(operands))):
        operand = operands[name]
        if _strength(operand) < binding:
            operand = f"({operand})"
        expression = expression[:start] + operand + expression[end:]
    return expression


@lru_cache(maxsize=_KEPT)
def _places_in(expression: str, parameters: tuple[str, ...]) -> tuple[tuple[int, int, str, int], ...]:
    """Where parameters stand: start, end, name, and how tightly their surroundings bind."""
    return tuple(sorted(_places(ast.parse(expression, mode="eval").body, parameters, 0)))


def _places(node: ast.AST, parameters: tuple[str, ...], binding: int) -> Iterator[tuple[int, int, str, int]]:
    if isinstance(node, ast.Name) and node.id in parameters:
        yield node.col_offset, node.col_offset + len(node.id), node.id, binding
    for child in ast.iter_child_nodes(node):
        yield from _places(child, parameters, _binding(node, child))


def _binding(node: ast.AST, child: ast.AST) -> int:
    """How tightly a child must bind by itself to need no parentheses."""
    if isinstance(node, ast.BinOp):
        strength = _STRENGTH[type(node.op)]
        return strength + (child is node.right)
    if isinstance(node, ast.UnaryOp):
        return _STRENGTH[ast.UnaryOp]
    if isinstance(node, ast.Attribute) or (isinstance(node, ast.Subscript) and child is node.value):
        return _ATOM
    return _STRENGTH[ast.Compare] + 1 if isinstance(node, ast.Compare) else 0


@lru_cache(maxsize=_KEPT)
def _strength(expression: str) -> int:
    """How tightly an expression binds."""
    node = ast.parse(expression, mode="eval").body
    if isinstance(node, ast.BinOp):
        return _STRENGTH[type(node.op)]
    return _STRENGTH.get(type(node), _ATOM)
