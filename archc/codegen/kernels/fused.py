"""A fused node as the kernel planners read it: its names, its types and its plain form in PyTorch."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from archc.codegen.code import Line
from archc.codegen.kernels.custom_op import Operand
from archc.codegen.layout import LINE_LENGTH
from archc.codegen.modules.lines import Emitter
from archc.codegen.modules.style import Style, no_loop
from archc.codegen.semantics import Semantics
from archc.ir.expr import INFIX
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value
from archc.ir.ops.structure import CONSTANT, INPUT
from archc.ir.records import attribute_text
from archc.ir.rule import Rule, decomposition, fused_by
from archc.ir.types import Dim, TensorType

_BLOCKS = (2048, 1024)


@dataclass(frozen=True)
class Fused:
    """`types` are those of the operands and weights that are there, in the rule's order.

    `optional`: operands that may be None, for zeros, and weights of norms of these.
    `plain`: the statements in PyTorch, the `return` last.
    `keeps`: whether some call of it keeps its keys and values itself.
    `semantics`: the reference functions that plain forms call.
    """

    name: str
    rule: Rule
    node: Node
    types: dict[str, TensorType]
    form: Graph
    plain: tuple[Line, ...]
    optional: tuple[str, ...]
    keeps: bool
    semantics: Semantics

    @property
    def equation(self) -> tuple[str, ...]:
        """The decomposition, with the attributes' values, on lines that fit into a docstring."""
        return tuple(line for text in _statements(self.form) for line in _folded(text))

    @property
    def layout(self) -> str:
        """The shapes of operands and results, and the place in the spec."""
        operands = ", ".join(f"{name} {type_.shape_code}" for name, type_ in self.types.items())
        outputs = zip(self.rule.output_names, self.node.types, strict=True)
        results = ", ".join(f"{name} {type_.shape_code}" for name, type_ in outputs)
        place = (self.node.span or self.rule.span).line_reference
        return f"{operands} -> {results}.  {place}"

    @property
    def operands(self) -> tuple[Operand, ...]:
        """What the op takes, for its signature."""
        return tuple(
            Operand(
                name, tuple(_plain_dim(dim) for dim in type_.shape), type_.dtype.value, name in self.optional
            )
            for name, type_ in self.types.items()
        )

    def width(self, operand: str) -> int:
        return width_of(self.types[operand])


def describe_fused(
    name: str, graph: Graph, node: Node, semantics: Semantics, optional: bool = False, keeps: bool = False
) -> Fused:
    """What the planners need of a fused node; `optional` lets a norm's addends be None."""
    rule, types = fused_by(node), graph.operand_types(node)
    form = decomposition(graph, node)
    plain = plain_form(form, rule.inputs, semantics)
    absent = tuple(name for name in _absent_together(rule) if name in types) if optional else ()
    return Fused(name, rule, node, types, form, plain, absent, keeps, semantics)


def _absent_together(rule: Rule) -> list[str]:
    """The addends of the residual stream, and the weights of their norms."""
    rows = [name for name in rule.operands if name != "residual"]
    return [*rows, *rule.norms_of(rows)]


def plain_form(form: Graph, operands: Sequence[str], semantics: Semantics) -> tuple[Line, ...]:
    """A decomposition's statements in PyTorch, the `return` last."""
    style = Style(
        semantics, _nothing_fused, {}, frozenset(operands), no_loop, comments=False, home="reference."
    )
    emitter = Emitter(form, style)
    emitter.arguments({value: form.name_of(value) for value in form.inputs})
    results = emitter.run()
    return (*emitter.lines, Line(f"return {', '.join(results)}"))


def _nothing_fused(_graph: Graph, node: Node, _operands: list[str]) -> str:
    raise AssertionError(f"{node.op.name} inside of a decomposition")


def _statements(form: Graph) -> list[str]:
    """A decomposition in the language's words, one statement for each named value."""
    texts: dict[Value, str] = {value: form.name_of(value) for value in form.inputs}
    lines: list[str] = []
    nodes = form.nodes()
    for place, node in enumerate(nodes):
        if node.op is INPUT:
            continue
        text = _expression(node, [texts[value] for value in node.operands])
        later = {value for other in nodes[place + 1 :] for value in other.inputs}
        needed = {name for value, name in texts.items() if value in later}
        names = [unique(name, needed) if name else "" for name in map(form.name_of, node.outputs)]
        if all(names):
            lines.append(f"{', '.join(names)} = {text}")
            texts.update(zip(node.outputs, names, strict=True))
        else:
            texts[node.outputs[0]] = text
    return lines


def _folded(text: str) -> list[str]:
    return textwrap.wrap(text, LINE_LENGTH - 8, subsequent_indent=" " * 4, break_long_words=False)


def _expression(node: Node, operands: list[str]) -> str:
    if node.op is CONSTANT:
        return attribute_text(node.attributes["value"])
    if node.op.name in INFIX:
        left, right = (f"({text})" if " " in _outside_brackets(text) else text for text in operands)
        return f"{left} {INFIX[node.op.name]} {right}"
    settings = [
        f"{name} = {attribute_text(value)}"
        for name, value in node.attributes.items()
        if value != node.op.attributes[name].default
    ]
    return f"{node.op.name}({', '.join([*operands, *settings])})"


def _outside_brackets(text: str) -> str:
    """A text without what stands in brackets."""
    while (shorter := re.sub(r"\([^()]*\)", "", text)) != text:
        text = shorter
    return text


def _plain_dim(dim: Dim) -> Dim:
    return dim if isinstance(dim, str) else int(dim)


def width_of(type_: TensorType) -> int:
    """The last dim, which is known."""
    assert isinstance(type_.width, int)
    return int(type_.width)


def block_of(width: int) -> int:
    """How many columns of a row a program has: a divisor of the width, which needs no mask, if possible."""
    return next((size for size in _BLOCKS if width % size == 0), min(_BLOCKS[0], power_of_two(width)))


def power_of_two(size: int) -> int:
    """The next power of two: Triton's blocks have no other length."""
    return 1 << (size - 1).bit_length()
