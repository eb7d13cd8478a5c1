"""A graph's nodes -> Python statements that read as if written by hand.

A value without a name that is read once is written where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from archc.codegen.code import Line
from archc.codegen.literals import attribute_code, given, number_text, shapes_text
from archc.codegen.modules.cache_lines import write_append, write_kept
from archc.codegen.modules.kept import PAST, KeptPart, kept_by, kept_by_readers
from archc.codegen.modules.loop_lines import write_loop
from archc.codegen.modules.regions import write_branch, write_experts, write_losses
from archc.codegen.modules.scan_lines import starts_state, write_scan
from archc.codegen.modules.spans import span_of, with_one_span
from archc.codegen.modules.style import Style
from archc.codegen.modules.variables import Variables
from archc.codegen.names import identifier
from archc.codegen.semantics import use_of
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.ops.recurrence import CARRIED, NEW_POSITIONS
from archc.ir.ops.structure import (
    APPEND,
    BRANCH,
    CONSTANT,
    EXPERTS,
    INPUT,
    KEEP,
    LOOP,
    LOSSES,
    NOTED,
    OF_ITERATION,
    ONES,
    RECENT,
    SCAN,
    WEIGHT,
    ZEROS,
)
from archc.ir.ops.training import IN_TRAINING
from archc.ir.paths import path_text
from archc.ir.rule import rule_of

_MAX_LINE = 104
_MAX_INLINE = 64
_NEUTRAL = {ZEROS: "nothing to add before the first layer", ONES: "no factor before the first layer"}
_WRITERS = {
    APPEND: write_append,
    BRANCH: write_branch,
    EXPERTS: write_experts,
    KEEP: write_kept,
    LOOP: write_loop,
    LOSSES: write_losses,
    SCAN: write_scan,
}


class Emitter:
    """Writes one graph."""

    def __init__(self, graph: Graph, style: Style, headings: bool = True):
        self.graph = graph
        self.style = style
        self.headings = headings and style.comments
        self.nodes = graph.nodes()
        self.lines: list[Line] = []
        self.kept_by = kept_by_readers(graph)
        self.kept_part = KeptPart(graph)
        self.linears_after = style.linears_after(graph)
        self._called_with = {after.node.id for after in self.linears_after.values()}
        self.variables = Variables(graph, style, self.kept_part)
        self._heading = ""

    def inner(self, body: Graph, **changes: Any) -> Emitter:
        """For a body inside of a statement, in the same style but for some `changes`."""
        return Emitter(body, replace(self.style, **changes), headings=False)

    def arguments(
        self, given: Mapping[Value, str] | None = None, wanted: Mapping[Value, str] | None = None
    ) -> list[str]:
        """Names for the graph's inputs, but for those `given` a text; to be called first."""
        for value, text in (given or {}).items():
            self.variables.take(value, text)
        names: list[str] = []
        for value in [value for value in self.graph.inputs if value not in self.variables.names]:
            name = (wanted or {}).get(value) or self.graph.name_of(value) or "x"
            names.append(self.variables.bind(value, name, names))
        return names

    @property
    def called(self) -> dict[Value, str]:
        """What the graph's inputs are called."""
        return {value: self.variables.names[value] for value in self.graph.inputs}

    def run(self) -> list[str]:
        """Write the statements into `lines`; the texts of the outputs."""
        for step, node in enumerate(self.nodes):
            self.variables.step = step
            elsewhere = node in self.kept_part or node.id in self._called_with
            if node.op not in (INPUT, WEIGHT, CONSTANT) and not elsewhere:
                self._write(node)
        self.variables.step = len(self.nodes)
        return [self.use(value) for _, value in self.graph.outputs]

    def _write(self, node: Node) -> None:
        if node.op in _WRITERS:
            _WRITERS[node.op](self, node)
        elif node.op is RECENT:
            self.variables.names[node.outputs[0]] = self._recent(node)
        elif node.op is NEW_POSITIONS:
            self.variables.names[node.outputs[0]] = self._new_positions(node)
        elif node.op is CARRIED:
            self.variables.pending[node.outputs[0]] = f'carried(cache, self, "{node.attributes["slot"]}")'
        elif self._is_inline(node):
            self.variables.pending[self._results(node)[0]] = self._call(node)
        else:
            self._assign(node)

    def operands(self, node: Node) -> list[str]:
        """The texts of what a node reads."""
        return [self.use(value) for value in node.operands]

    def use(self, value: Value) -> str:
        """The text of a value where it is read."""
        node = self.graph.node(value)
        if node.id in self.kept_by and node.inputs[0] is not None:
            return self.use(node.inputs[0])
        if value in self.variables.pending:
            return self.variables.pending.pop(value)
        if node.op is WEIGHT:
            return self.style.weights[node.id]
        if node.op is CONSTANT:
            return number_text(node.attributes["value"])
        return self.variables.names[value]

    def _results(self, node: Node) -> list[Value]:
        """What the call of a node makes: the product in place of what a linear map in it alone reads."""
        after = self.linears_after.get(node.id)
        if after and after.kept:
            return [*node.outputs, after.node.outputs[0]]
        products = {after.node.inputs[0]: after.node.outputs[0]} if after else {}
        return [products.get(value, value) for value in node.outputs]

    def _call(self, node: Node) -> str:
        """A node as an expression."""
        operands = self._operands(node)
        rule = rule_of(node)
        slots = [f'"{kept.attributes["slot"]}"' for kept in kept_by(self.graph, node)]
        past = [f"past(cache, self, {', '.join(slots)})"] if slots else []
        if after := self.linears_after.get(node.id):
            weights = [self.use(value) for value in after.node.operands[1:]]
            return f"{after.function}({', '.join([*operands, *weights])})"
        if rule is not None:
            if rule.family in PAST:
                operands = with_one_span(operands)
            return self.style.kernels(self.graph, node, [*operands, *past])
        if node.op in IN_TRAINING:
            settings = [attribute_code(value, self.style.comments) for value in node.attributes.values()]
            return f"{node.op.name}({', '.join([*operands, *settings, 'losses'])})"
        if node.op is OF_ITERATION:
            return self._of_iteration(node)
        if node.op is NOTED:
            return f'losses.noted("{node.attributes["name"]}")'
        if self.style.none_for_zeros(self.graph, node):
            return "None"
        if function := self.style.function(self.graph, node):
            spans = filter(None, map(span_of, operands)) if self.style.packed and node.op.carries else ()
            return f"{function}({', '.join([*operands, *(f'{span}.documents' for span in spans)])})"
        texts = {name: attribute_code(value, self.style.comments) for name, value in node.attributes.items()}
        if node.op.module:
            settings = [f"{name}={text}" for name, text in texts.items() if node.attributes[name]]
            settings += [f"past={text}" for text in past]
            operands = with_one_span(operands) if node.op.past else given(node.op, operands)
            return f"{node.op.module}.{node.op.name}({', '.join([*operands, *settings])})"
        if self.style.caches and node.op.fixed(node.attributes):
            return self.style.semantics.call_once(use_of(node), operands, texts)
        return self.style.semantics.call(use_of(node), operands, texts, self.style.home)

    def _operands(self, node: Node) -> list[str]:
        """Texts of the operands; those that would make the statement too long become statements of their own.

        So do those that the statement would write, and compute, twice.
        """
        twice = () if rule_of(node) or node.op.module else self.style.semantics.written_twice(use_of(node))
        for value, repeated in zip(node.operands, twice, strict=False):
            if repeated and value in self.variables.pending:
                self._flush(value)
        pending = self.variables.pending
        while self._length(node) > _MAX_LINE and (long := list(filter(self._is_long, node.operands))):
            self._flush(max(long, key=lambda value: len(pending[value])))
        if node.op.module or node.op in IN_TRAINING:
            return ["None" if value is None else self.use(value) for value in node.inputs]
        if rule_of(node):  # its function takes no others
            return [self.use(value) for value in node.operands]
        return self.operands(node)

    def _length(self, node: Node) -> int:
        """About how long the statement of a node would be."""
        pending, names, weights = self.variables.pending, self.variables.names, self.style.weights
        texts = [pending.get(v) or names.get(v) or weights.get(v.node, "0") for v in node.operands]
        after = self.linears_after.get(node.id)
        name = len(after.function) if after else len(node.op.name) + 9 if rule_of(node) else 8
        texts += [weights.get(v.node, "") for v in after.node.operands[1:]] if after else []
        return (
            name + sum(len(text) + 2 for text in texts) + 5 * len(node.outputs) + len(self.comment_of(node))
        )

    def _is_long(self, value: Value) -> bool:
        """Whether a value's text is more than a name, so that a name of its own is shorter."""
        text = self.variables.pending.get(value, "")
        return bool(text) and not text.replace(".", "_").isidentifier()

    def _flush(self, value: Value) -> None:
        self.enter(self.graph.node(value))
        code = self.variables.pending.pop(value)
        name = self.variables.bind(value, inside=True)
        self.lines.append(Line(f"{name} = {code}", self.shape_comment([value])))

    def _is_inline(self, node: Node) -> bool:
        value, *others = self._results(node)
        if others or self.graph.name_of(value):
            return False
        users = self.graph.users(value)
        if self.style.comments and self.graph.is_output(value):
            return False
        if len(users) + self.graph.is_output(value) != 1:
            return False
        if users and (users[0][0].bodies or users[0][0].op is LOSSES) and not starts_state(*users[0]):
            return False
        pending = sum(len(self.variables.pending.get(v, "")) for v in node.operands)
        return pending <= _MAX_INLINE

    def _recent(self, node: Node) -> str:
        """Positions of keys as the span of rings has them."""
        span, _, name = self.use(node.first).rpartition(".")
        return f"{span}.recent({attribute_code(node.attributes['length'], self.style.comments)}).{name}"

    def _new_positions(self, node: Node) -> str:
        """Positions that tell padding, as the span has them."""
        return f"{span_of(self.use(node.first))}.new_positions"

    def _of_iteration(self, node: Node) -> str:
        """A layer's part of a table, by the layer's number."""
        (table,), first = self.operands(node), node.attributes["first"]
        return f"{table}[self.{identifier(node.attributes['variable'])}{f' - {first}' if first else ''}]"

    def _assign(self, node: Node) -> None:
        code = self._call(node)  # which may write statements of other blocks first
        results = self._results(node)
        if len(code) <= _MAX_INLINE and code in self.style.weights.values():  # a parameter has a name
            self.variables.names[results[0]] = code
            return
        self.enter(node)
        unread = [not self.graph.users(v) and not self.graph.is_output(v) for v in results]
        targets = [
            "_" if skip else self.variables.bind(value) for value, skip in zip(results, unread, strict=True)
        ]
        target = ", ".join(targets)
        if self.style.none_for_zeros(self.graph, node) and not self._is_declared(target):
            target += ": Any"  # what layers add to it comes from `nn.Module.__call__`
        self.lines.append(Line(f"{target} = {code}", self.comment_of(node)))

    def _is_declared(self, name: str) -> bool:
        return any(line.code.startswith(f"{name}: ") for line in self.lines)

    def enter(self, node: Node) -> None:
        """A blank line and a heading where another block of the spec begins."""
        scope = node.scope
        if not self.headings or scope is None or not scope.path:
            return
        place = f", {scope.span.line_reference}" if scope.span else ""
        heading = f"{scope.block}: {path_text(scope.path)}{place}"
        if heading != self._heading:
            self._heading = heading
            self.lines += [Line(""), Line("", heading)]

    def comment_of(self, node: Node) -> str:
        shapes = self.shape_comment(self._results(node))
        users = self.graph.users(node.outputs[0])
        if node.op not in _NEUTRAL or any(user.op is not LOOP for user, _ in users):
            return shapes
        if self.style.none_for_zeros(self.graph, node):
            return _NEUTRAL[node.op]
        return shapes and f"{shapes}: {_NEUTRAL[node.op]}"

    def shape_comment(self, values: Sequence[Value]) -> str:
        return shapes_text([self.graph.type(value).shape for value in values]) if self.style.comments else ""
