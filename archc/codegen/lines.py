"""A graph's nodes -> Python statements that read as if written by hand.

Values get the spec's names; a name is used again once its old value is no longer read.  A value without a
name that is read once is written in place of its use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from archc.codegen.class_plan import Line
from archc.codegen.kept import KeptPart, with_one_span, with_spans
from archc.codegen.names import identifier
from archc.codegen.semantics import Semantics, Use
from archc.ir.graph import PRELUDE, Graph, Node, Scope, Value
from archc.ir.names import unique
from archc.ir.op import Trait
from archc.ir.ops.balance import IN_TRAINING
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
    RECENT,
    WEIGHT,
    ZEROS,
)
from archc.ir.paths import path_text
from archc.ir.rule import rule_of
from archc.ir.sizes import NamedFloat, Size
from archc.ir.types import Dim, shape_text

_MAX_LINE = 104
_MAX_INLINE = 64
_SHORT = {
    "rms_norm": "h",
    "layer_norm": "h",
    "attend": "o",
    "add": "x",
    "mul": "h",
    "dispatch": "rows",
    "experts": "y",
    "combine": "y",
}


@dataclass(frozen=True)
class Style:
    """How a graph is written.

    kernels:  the call of a fused node, given its operands' texts; None where there are none
    weights:  the text of a weight, by its node's number
    reserved: names that variables must not take
    home:     where the ops' reference functions are found, such as "reference."
    loop:     the statement of a loop: given its node, its results' and operands' names
    linear:   the function for a linear map that has a kernel, "" for all other nodes
    of_experts: the texts of the weights in the body of an `experts` node, by its number
    """

    semantics: Semantics
    kernels: Callable[[Graph, Node, list[str]], str]
    weights: Mapping[int, str]
    reserved: frozenset[str]
    loop: Callable[[Node, list[str], list[str]], list[Line]]
    comments: bool = True
    home: str = ""
    none_for_zeros: Callable[[Graph, Node], bool] = lambda _graph, _node: False
    linear: Callable[[Graph, Node], str] = lambda _graph, _node: ""
    of_experts: Mapping[int, Mapping[int, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Body:
    """The body of experts, and the texts of what it takes from outside."""

    node: Node
    captured: Sequence[str]

    @property
    def graph(self) -> Graph:
        return self.node.bodies[0]

    @property
    def whole(self) -> dict[Value, str]:
        """What it reads whole, by its own inputs."""
        return {value: text for value, text, kind in self._inputs() if kind == "whole"}

    @property
    def wanted(self) -> dict[Value, str]:
        """Names for its other inputs: those that they have outside."""
        return {v: text for v, text, kind in self._inputs() if kind != "whole" and text.isidentifier()}

    def texts(self, kind: str) -> list[str]:
        """What it takes in one way."""
        return [text for _, text, each in self._inputs() if each == kind]

    def _inputs(self) -> Iterator[tuple[Value, str, str]]:
        yield from zip(self.graph.inputs, self.captured, self.node.attributes["taken"], strict=True)


class Emitter:
    """Writes one graph."""

    def __init__(self, graph: Graph, style: Style, headings: bool = True):
        self.graph = graph
        self.style = style
        self.headings = headings and style.comments
        self.nodes = graph.nodes()
        self.lines: list[Line] = []
        self.names: dict[Value, str] = {}
        self._owners: dict[str, Value] = {}
        self._pending: dict[Value, str] = {}
        self._kept_by = self._kept_by_attention()
        self._kept_part = KeptPart(graph)
        self._last_use = self._last_uses()
        self._scope: Scope | None = None
        self._step = 0

    def arguments(
        self, given: Mapping[Value, str] | None = None, wanted: Mapping[Value, str] | None = None
    ) -> list[str]:
        """Names for the graph's inputs, but for those `given` a text; to be called first."""
        for value, text in (given or {}).items():
            self._take(value, text)
        free = [value for value in self.graph.inputs if value not in self.names]
        names: list[str] = []
        for value in free:
            name = (wanted or {}).get(value) or self.graph.name_of(value) or "x"
            names.append(self._bind(value, name, names))
        return names

    def run(self) -> list[str]:
        """Write the statements into `lines`; the texts of the outputs."""
        for step, node in enumerate(self.nodes):
            self._step = step
            if node.op in (INPUT, WEIGHT, CONSTANT) or node in self._kept_part:
                continue
            if node.op is KEEP:
                self._once()
            elif node.op is APPEND:
                if node.id not in self._kept_by:
                    self._append(node)
            elif node.op is LOOP:
                self._loop(node)
            elif node.op is EXPERTS:
                self._experts(node)
            elif node.op is BRANCH:
                self._branch(node)
            elif node.op is LOSSES:
                self._losses(node)
            elif node.op is RECENT:
                self.names[node.outputs[0]] = self._recent(node)
            elif self._is_inline(node):
                self._pending[node.outputs[0]] = self._call(node)
            else:
                self._assign(node)
        self._step = len(self.nodes)
        return [self._use(value) for _, value in self.graph.outputs]

    # ------------------------------------------------------------ expressions

    def _use(self, value: Value) -> str:
        """The text of a value where it is read."""
        node = self.graph.node(value)
        if node.id in self._kept_by and node.inputs[0] is not None:
            return self._use(node.inputs[0])
        if value in self._pending:
            return self._pending.pop(value)
        if node.op is WEIGHT:
            return self.style.weights[node.id]
        if node.op is CONSTANT:
            return number_text(node.attributes["value"])
        return self.names[value]

    def _call(self, node: Node) -> str:
        """A node as an expression."""
        operands = self._operands(node)
        rule = rule_of(node)
        if rule is not None:
            slots = [f'"{kept.attributes["slot"]}"' for kept in kept_by(self.graph, node)]
            past = [f"past(cache, self, {', '.join(slots)})"] if slots else []
            if rule.family == "attention":
                operands = [text for text in with_one_span(operands) if text != "None"]
            return self.style.kernels(self.graph, node, [*operands, *past])
        if node.op in IN_TRAINING:
            settings = [attribute_code(value, self.style.comments) for value in node.attributes.values()]
            return f"{node.op.name}({', '.join([*operands, *settings, 'losses'])})"
        if node.op is NOTED:
            return f'losses.noted("{node.attributes["name"]}")'
        if node.op is ZEROS and self.style.none_for_zeros(self.graph, node):
            return "None"
        if function := self.style.linear(self.graph, node):
            return f"{function}({', '.join(operands)})"
        texts = {name: attribute_code(value, self.style.comments) for name, value in node.attributes.items()}
        if node.op.module:
            settings = [f"{name}={text}" for name, text in texts.items()]
            return f"{node.op.module}.{node.op.name}({', '.join([*operands, *settings])})"
        return self.style.semantics.call(use_of(node), operands, texts, self.style.home)

    def _operands(self, node: Node) -> list[str]:
        """Texts of the operands; those that would make the statement too long become statements first.

        So do those that the statement reads twice, which would be computed twice.
        """
        values = [value for value in node.inputs if value is not None]
        twice = () if rule_of(node) or node.op.module else self.style.semantics.written_twice(use_of(node))
        for value, repeated in zip(values, twice, strict=False):
            if repeated and value in self._pending:
                self._flush(value)
        while self._length(node, values) > _MAX_LINE and any(value in self._pending for value in values):
            self._flush(max(values, key=lambda value: len(self._pending.get(value, ""))))
        if rule_of(node):
            return ["None" if value is None else self._use(value) for value in node.inputs]
        return [self._use(value) for value in values]

    def _length(self, node: Node, values: Sequence[Value]) -> int:
        """About how long the statement of a node would be."""
        texts = [
            self._pending.get(v) or self.names.get(v) or self.style.weights.get(v.node, "0") for v in values
        ]
        name = len(node.op.name) + 9 if rule_of(node) else 8
        return (
            name + sum(len(text) + 2 for text in texts) + 5 * len(node.outputs) + len(self._comment_of(node))
        )

    def _flush(self, value: Value) -> None:
        self._enter(self.graph.node(value))
        code = self._pending.pop(value)
        name = self._bind(value, self._wanted(value), inside=True)
        self.lines.append(Line(f"{name} = {code}", self._shape_comment([value])))

    def _is_inline(self, node: Node) -> bool:
        if len(node.outputs) != 1 or (node.names and node.names[0]):
            return False
        value = node.outputs[0]
        users = self.graph.users(value)
        if self.style.comments and self.graph.is_output(value):
            return False
        if len(users) + self.graph.is_output(value) != 1:
            return False
        if users and (users[0][0].bodies or users[0][0].op is LOSSES):
            return False
        pending = sum(len(self._pending.get(v, "")) for v in node.inputs if v is not None)
        return pending <= _MAX_INLINE

    # -------------------------------------------------------------- the cache

    def _kept_by_attention(self) -> set[int]:
        """Numbers of the `append` nodes that a fused attention does itself."""
        return {kept.id for node in self.nodes for kept in kept_by(self.graph, node)}

    def _recent(self, node: Node) -> str:
        """Positions of keys as the span of rings has them."""
        (positions,) = node.inputs
        assert positions is not None
        span, _, name = self._use(positions).rpartition(".")
        return f"{span}.recent({attribute_code(node.attributes['length'], self.style.comments)}).{name}"

    # ------------------------------------------------------------- statements

    def _assign(self, node: Node) -> None:
        self._enter(node)
        code = self._call(node)
        unread = [not self.graph.users(v) and not self.graph.is_output(v) for v in node.outputs]
        targets = [
            "_" if skip else self._bind(value, self._wanted(value))
            for value, skip in zip(node.outputs, unread, strict=True)
        ]
        self.lines.append(Line(f"{', '.join(targets)} = {code}", self._comment_of(node)))

    def _append(self, node: Node) -> None:
        """All values that one op keeps, in one statement, once the last of them is there."""
        group = [
            other for other in self.nodes if other.op is APPEND and _same_reader(self.graph, node, other)
        ]
        kept = [other.inputs[0] for other in group if other.inputs[0] is not None]
        done = group[0].outputs[0] in self.names
        if done or not all(value in self.names or value in self._pending for value in kept):
            return
        given = [
            f"{other.attributes['slot']}={self._use(value)}" for other, value in zip(group, kept, strict=True)
        ]
        self._last_use.update({value: self._step for value in kept if len(self.graph.users(value)) == 1})
        targets = [self._bind(other.outputs[0], self._wanted(other.outputs[0])) for other in group]
        left = f"({targets[0]},)" if len(targets) == 1 else ", ".join(targets)
        code = f"{left} = remember(cache, self, {', '.join(given)})"
        self.lines.append(Line(code, self._shape_comment([other.outputs[0] for other in group])))

    def _once(self) -> None:
        """All that is kept while tokens are added, in one statement."""
        part = self._kept_part
        if part.values[0] in self.names:
            return
        arguments = with_spans([self.names[value] for value in part.inputs])
        arguments += ["losses"] if part.trains else []
        targets = [self._bind(value, self._wanted(value)) for value in part.values]
        code = f"{', '.join(targets)} = once({', '.join(['cache', 'self.fixed', *arguments])})"
        self.lines.append(Line(code, self._shape_comment(part.values)))

    def _loop(self, node: Node) -> None:
        operands = [self._use(value) for value in node.inputs if value is not None]
        carried = node.attributes["carried"]
        entering = node.attributes["entering"]
        # A loop assigns to what it reads: each carried value keeps one name from before the loop to after it.
        start = dict(zip(entering, node.inputs, strict=False))
        targets: list[str] = []
        for name, value in zip(carried, node.outputs, strict=True):
            before = start.get(name)
            text = operands[entering.index(name)] if before is not None else ""
            if not text.isidentifier() or text in targets or self._is_read_later(before, node):
                text = self._bind(value, self._wanted(value) or name)
                if before is not None:
                    self.lines.append(Line(f"{text} = {operands[entering.index(name)]}"))
            else:
                self._take(value, text)
            targets.append(text)
        inner = [
            targets[carried.index(n)] if n in carried else t for n, t in zip(entering, operands, strict=False)
        ]
        self.lines += self.style.loop(node, targets, [*inner, *operands[len(entering) :]])

    def _experts(self, node: Node) -> None:
        """The body as a function, and the loop that calls it for one expert after the other."""
        self._enter(node)
        chosen, *captured = [self._use(value) for value in node.inputs if value is not None]
        body = _Body(node, captured)
        name = unique("expert", {*self._owners, *self.style.reserved})
        self.lines += [Line(""), *self._expert_function(name, body), Line("")]
        count = attribute_code(node.attributes["count"], self.style.comments)
        given = (name, count, chosen, tuple_text(body.texts("token")), tuple_text(body.texts("choice")))
        target = self._bind(node.outputs[0], self._wanted(node.outputs[0]))
        self.lines.append(Line(f"{target} = experts.each({', '.join(given)})", self._comment_of(node)))

    def _expert_function(self, name: str, body: _Body) -> list[Line]:
        """What one expert does with its rows; what it reads whole are variables of the code around it."""
        variable = identifier(body.node.attributes["variable"])
        reserved = self.style.reserved | {variable, *body.whole.values()}
        style = replace(self.style, weights=self.style.of_experts[body.node.id], reserved=reserved)
        inner = Emitter(body.graph, style, headings=False)
        arguments = inner.arguments(body.whole, body.wanted)
        (result,) = inner.run()
        lines = [_indented(line) for line in inner.lines]
        last = inner.lines[-1] if inner.lines else Line("")
        if last.code.startswith(f"{result} = "):
            lines[-1] = Line(f"    return {last.code.removeprefix(f'{result} = ')}", last.comment)
        else:
            lines.append(Line(f"    return {result}"))
        parameters = [f"{variable}: int", *(f"{argument}: Tensor" for argument in arguments)]
        return [Line(f"def {name}({', '.join(parameters)}) -> Tensor:"), *lines]

    def _losses(self, node: Node) -> None:
        """What is computed where a loss is asked for, and nowhere else."""
        self._enter(node)
        body: Graph = node.attributes["body"]
        operands = [self._use(value) for value in node.inputs if value is not None]
        emitter = Emitter(
            body, replace(self.style, reserved=self.style.reserved | self._busy()), headings=False
        )
        emitter.arguments(dict(zip(body.inputs, operands, strict=True)))
        results = emitter.run()
        left = [
            Line(f'losses.{"add" if kind == "loss" else "note"}("{name}", {text})')
            for kind, (name, _), text in zip(node.attributes["kinds"], body.outputs, results, strict=True)
        ]
        self.lines += [Line("if losses is not None:"), *map(_indented, [*emitter.lines, *left])]

    def _busy(self) -> set[str]:
        """Names that stand for values which are read later."""
        return {name for name, owner in self._owners.items() if self._last_use.get(owner, -1) > self._step}

    def _branch(self, node: Node) -> None:
        """One way for many new tokens, another for a few behind a cache."""
        self._enter(node)
        operands = [self._use(value) for value in node.inputs if value is not None]
        busy = self._busy()
        target = self._bind(node.outputs[0], self._wanted(node.outputs[0]))
        tests = (f"if cache is None or {operands[0]}.shape[1] > {node.attributes['few']}:", "else:")
        comments = (
            "keys and values of all tokens",
            "the same without them: their maps go to queries and sums",
        )
        for test, comment, body in zip(tests, comments, node.bodies, strict=True):
            emitter = Emitter(body, replace(self.style, reserved=self.style.reserved | busy), headings=False)
            emitter.arguments(dict(zip(body.inputs, operands, strict=True)))
            (text,) = emitter.run()
            result = Line(f"{target} = {text}", self._shape_comment(node.outputs))
            lines = [*emitter.lines, *([result] if text != target else [])]
            self.lines.append(Line(test, comment if self.style.comments else ""))
            self.lines += map(_indented, lines)

    def _is_read_later(self, value: Value | None, loop: Node) -> bool:
        return value is not None and self._last_use.get(value, -1) > self.nodes.index(loop)

    # ------------------------------------------------------------------ names

    def _wanted(self, value: Value) -> str:
        """The name a value would like to have."""
        node = self.graph.node(value)
        results = [name for name, result in self.graph.outputs if result == value]
        name = self.graph.name_of(value) or (results[0] if results and self.style.comments else "")
        rule = rule_of(node)
        if not name and rule:
            step = rule.outputs[value.output].step
            inner = rule.steps[step].op.name
            name = _SHORT.get(inner, rule.output_names[value.output].removesuffix("_out"))
        if not name and node.op.has(Trait.LINEAR) and node.inputs[1] is not None:
            name = (
                self.style.weights.get(node.inputs[1].node, "x").removeprefix("self.").removesuffix("_proj")
            )
        return name or _SHORT.get(node.op.name, node.op.name)

    def _bind(self, value: Value, wanted: str, taken: Sequence[str] = (), inside: bool = False) -> str:
        """Give a value its name: the wanted one unless that is `taken` or stands for a value read later.

        `inside`: the value is an operand of the present statement, and so are others that keep their names.
        """
        name = identifier(wanted)
        step = self._step - inside
        busy = {
            other
            for other, owner in self._owners.items()
            if self._last_use.get(owner, -1) > step or self._is_mentioned(other)
        }
        name = unique(name, busy.union(taken, self.style.reserved))
        self._take(value, name)
        return name

    def _take(self, value: Value, name: str) -> None:
        self.names[value] = name
        self._owners[name] = value

    def _is_mentioned(self, name: str) -> bool:
        """Whether a text that is still to be written in place reads a name."""
        return any(re.search(rf"(?<![\w.]){name}\b", code) for code in self._pending.values())

    def _last_uses(self) -> dict[Value, int]:
        last: dict[Value, int] = {}
        for step, node in enumerate(self.nodes):
            for value in (*node.inputs, *(kept.inputs[0] for kept in kept_by(self.graph, node))):
                if value is not None:
                    last[value] = step
        for value in self._kept_part.inputs:  # all of it is read where the first is kept
            last[value] = max(last[value], self.nodes.index(self._kept_part.keeps[0]))
        for _, value in self.graph.outputs:
            last[value] = len(self.nodes) + 1
        return last

    # --------------------------------------------------------------- comments

    def _enter(self, node: Node) -> None:
        """A blank line and a heading where another block of the spec begins."""
        scope = _own_block(node.scope)
        if not self.headings or scope is self._scope or scope is None or not scope.path:
            return
        self._scope = scope
        place = f", {scope.span.line_reference}" if scope.span else ""
        self.lines += [Line(""), Line("", f"{scope.block}: {path_text(scope.path)}{place}")]

    def _comment_of(self, node: Node) -> str:
        if node.op is ZEROS and self.style.none_for_zeros(self.graph, node):
            return "nothing to add before the first layer"
        return self._shape_comment(node.outputs)

    def _shape_comment(self, values: Sequence[Value]) -> str:
        return shapes_text([self.graph.type(value).shape for value in values]) if self.style.comments else ""


def _indented(line: Line) -> Line:
    """The line in a body of its own."""
    text = line.code or (f"# {line.comment}" if line.comment else "")
    return Line(f"    {text}", line.comment if line.code else "") if text else line


def tuple_text(items: Sequence[str]) -> str:
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def no_loop(_node: Node, _targets: list[str], _operands: list[str]) -> list[Line]:
    """The statement of a loop in graphs that have none."""
    raise AssertionError("a loop inside of a decomposition or a head")


def _own_block(scope: Scope | None) -> Scope | None:
    """The innermost scope that is a block of the spec's own, not one that every spec sees."""
    while scope is not None and scope.block in PRELUDE:
        scope = scope.outer
    return scope


def kept_by(graph: Graph, node: Node) -> list[Node]:
    """The `append` nodes of its keys and values that a fused attention, their only reader, does itself."""
    rule = rule_of(node)
    if rule is None or rule.family != "attention":
        return []
    kept = [graph.node(value) for value in node.past]
    alone = all(each.op is APPEND and len(graph.users(each.outputs[0])) == 1 for each in kept)
    return kept if alone else []


def use_of(node: Node) -> Use:
    """The node as a use of its op's reference function."""
    return Use(
        node.op,
        tuple(value is not None for value in node.inputs),
        tuple((name, node.attributes[name]) for name in node.op.attributes),
    )


def attribute_code(value: object, by_name: bool) -> str:
    """An attribute as Python, by the constants that it is computed from where that is asked for."""
    if isinstance(value, NamedFloat):
        return value.name if by_name else repr(float(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return size_code(value) if by_name else str(int(value))
    return repr(value)


def size_code(value: int | str) -> str:
    """A size as Python, by the constants that it is computed from."""
    if isinstance(value, Size):
        text = value.text
        return text if len(text) <= 48 else str(int(value))
    return str(value)


def number_text(value: float) -> str:
    """A number as short as Python writes it."""
    return repr(int(value)) if float(value).is_integer() and abs(value) < 1e6 else repr(float(value))


def shapes_text(shapes: Sequence[tuple[Dim, ...]]) -> str:
    """Shapes as a comment; those that differ in one dim only as one: `[B, T, 32 | 8 | 8, 128]`."""
    first = shapes[0]
    if len(first) > 1 and all(len(shape) == len(first) for shape in shapes):
        columns = list(zip(*shapes, strict=True))
        if sum(len(set(column)) > 1 for column in columns) <= 1:
            dims = [
                " | ".join(map(str, column)) if len(set(column)) > 1 else str(column[0]) for column in columns
            ]
            each = " each" if len(shapes) > 1 and all(len(set(column)) == 1 for column in columns) else ""
            return f"[{', '.join(dims)}]{each}"
    return ", ".join(map(shape_text, shapes))


def _same_reader(graph: Graph, node: Node, other: Node) -> bool:
    readers = {user.id for user, _ in graph.users(node.outputs[0])}
    return bool(readers & {user.id for user, _ in graph.users(other.outputs[0])})
