"""Ops put into the graph, with the weights that they bring and the values of their attributes."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

from archc.errors import Note, Span, did_you_mean
from archc.frontend import arithmetic, mistakes
from archc.frontend.expressions import source_text
from archc.frontend.limits import MAX_NODES, MAX_WEIGHT_ELEMENTS, NODE_STEPS
from archc.frontend.values import POISON, Handle, LoopValue, Poison, Quotient, Table, describe, peek
from archc.frontend.weights import Place, Start, Weights
from archc.ir.attributes import Kind, NotWholeError
from archc.ir.expr import INFIX
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS, Op, Trait
from archc.ir.ops.numbers import CONSTANTS
from archc.ir.ops.structure import CONSTANT, EXACT_WHOLE, OF_ITERATION
from archc.ir.paths import Path
from archc.ir.records import RECORDS
from archc.ir.types import DType, TypeMistake, shape_text

CAST_LIKE, MATMUL, UPCAST = (OPS[name] for name in ("cast_like", "matmul", "upcast"))

# How operators are written that are ops on tensors.
_SYMBOLS = {**INFIX, "neg": "-", "square": "** 2"}


class _Reported(Exception):
    """A mistake that was reported already."""


def _hint_for(text: str, kind: Kind) -> str:
    """What to write for a string where something else is needed."""
    if text not in RECORDS:
        return did_you_mean(text, kind.choices)
    arguments = "(...)" if fields(RECORDS[text]) else ""
    return f"write it without quotes: `{text}{arguments}`"


def _is_whole(node: Node, graph: Graph) -> bool:
    """Whether a node is its operand in the same shape."""
    views = node.op.has(Trait.VIEW) and node.op.has(Trait.SHAPE)
    return views and node.types == tuple(graph.type(value) for value in node.operands)


class Applications(Weights):
    """Application of ops to values."""

    def convert(self, value: Any, kind: Kind, what: str, span: Span) -> Any:
        """A value as an attribute keeps it; loop-dependent values stay so."""
        plain = peek(value)
        if isinstance(plain, Poison):
            return POISON
        try:
            kept = kind.accept(plain)
        except NotWholeError:
            return self._report_fraction(plain, what, span)
        except ValueError:
            hint = _hint_for(plain, kind) if isinstance(plain, str) else ""
            return self.report(
                mistakes.WrongValue(span, what=what, expected=kind.expected, found=describe(plain), hint=hint)
            )
        if not isinstance(value, LoopValue):
            return kept
        return replace(value, value=kept, at=lambda indices: kind.accept(value.at(indices)))

    def _report_fraction(self, value: Any, what: str, span: Span) -> Any:
        if isinstance(value, Quotient) and value.expr is not None:
            text = f"`{source_text(value.expr)}`"
            note = Note(f"{what} must be a whole number", span)
            return self.report(
                mistakes.NotDivisible(
                    value.expr.span, text=text, left=value.left, right=value.right, notes=[note]
                )
            )
        return self.report(mistakes.NotWhole(span, what=what, found=describe(value)))

    def apply(
        self, op: Op, operands: list[Any], attributes: dict[str, Any], span: Span, path: Path | None = None
    ) -> list[Any]:
        """Add an op to the graph, with its weights; numbers among the operands become constants."""
        if not self.count_node(span):
            return [POISON]
        values = self._stand_ins(self._widened(op, operands, span), span)
        try:
            values += self._weights(op, values, attributes, span, path)
            values += [None] if op.carries else []  # a state: the plan of the cache gives it one
            kept = {name: attributes[name] for name in op.attributes}
            node = self.frame.graph.add(
                op, values, kept, span=self.place(span), scope=self.scope, path=self.prefix + (path or ())
            )
            self._check_numbers(node)
        except _Reported:
            return [POISON]
        except TypeMistake as mistake:
            return self._report_type(op, mistake, values, span)
        if _is_whole(node, graph := self.frame.graph):  # such as a split into one part
            graph.remove(node)
            return [Handle(graph, value) for value in node.operands]
        results = [Handle(self.frame.graph, value) for value in node.outputs]
        return self._rounded(results, operands, span) if op is MATMUL or op.scalar is not None else results

    def count_node(self, span: Span) -> bool:
        """Count one more op or traced body; False where there are too many, which is reported once."""
        self.spend(NODE_STEPS)
        self.nodes += 1
        if self.nodes == MAX_NODES + 1:
            self.report(mistakes.TooMany(span, what="ops in one model", limit=MAX_NODES))
        return self.nodes <= MAX_NODES

    def _stand_ins(self, operands: list[Any], span: Span) -> list[Value | None]:
        """The operands as values of the graph: tensors, numbers, and tables beside a tensor."""
        values = [self.resolve(operand) if isinstance(operand, Handle) else None for operand in operands]
        present = [value for value in values if value is not None]
        for place, operand in enumerate(operands):
            if isinstance(operand, Table):
                values[place] = self._table(operand, present, span)
            elif operand is not None and not isinstance(operand, Handle):
                number = float(self.known(operand))
                values[place] = self.frame.graph.add(CONSTANT, (), {"value": number}).outputs[0]
        return values

    def _check_numbers(self, node: Node) -> None:
        """Raise `TypeMistake` for a number that would not leave the whole numbers that it meets whole."""
        if node.types[0].dtype is not DType.I64 or not node.op.has(Trait.PER_TOKEN):
            return
        makers = [self.frame.graph.node(value) for value in node.operands]
        for number in (maker.attributes["value"] for maker in makers if maker.op is CONSTANT):
            if not number.is_integer():
                hint = "`upcast` makes whole numbers float32"
                raise TypeMistake(f"whole numbers cannot be combined with {number}", hint=hint)
            if abs(number) >= EXACT_WHOLE:
                raise TypeMistake(f"a number beside whole ones must be below 2^53, not {int(number)}")

    def _table(self, table: Table, beside: list[Value], span: Span) -> Value:
        """A table as a tensor on the device of one beside it, where possible one of floating point."""
        graph = self.frame.graph
        like = next((value for value in beside if graph.type(value).dtype.is_floating), beside[0])
        settings: dict[str, Any] = {"values": arithmetic.floats(table.values)}
        made: Any = {"names": (table.name,), "span": self.place(span), "scope": self.scope}
        (numbers,) = graph.add(CONSTANTS, (like,), settings, **made).outputs
        if not table.variable:
            return numbers
        settings = {"variable": table.variable, "first": table.first}
        return graph.add(OF_ITERATION, (numbers,), settings, **made).outputs[0]

    def _widened(self, op: Op, operands: list[Any], span: Span) -> list[Any]:
        """A product with a list of numbers is one in float32, as any arithmetic with it."""
        if op is not MATMUL or not any(isinstance(operand, Table) for operand in operands):
            return operands
        return [
            each if isinstance(each, Table) else self.apply(UPCAST, [each], {}, span)[0] for each in operands
        ]

    def _rounded(self, results: list[Any], operands: list[Any], span: Span) -> list[Any]:
        """Results in the model's dtype where a list of numbers was all that its tensors met."""
        tensors = [operand for operand in operands if isinstance(operand, Handle)]
        floats = [tensor for tensor in tensors if tensor.type.dtype is DType.FLOAT]
        if not floats or results[0].type.dtype is DType.FLOAT:
            return results
        if any(tensor.type.dtype is DType.F32 for tensor in tensors):
            return results
        return self.apply(CAST_LIKE, [results[0], floats[0]], {}, span)

    def _report_type(self, op: Op, mistake: TypeMistake, values: list[Value | None], span: Span) -> list[Any]:
        graph = self.frame.graph
        notes: list[Note] = []
        for operand, value in zip(op.operands, values, strict=False):
            if operand.name in mistake.operands and value is not None:
                node = graph.node(value)
                name = graph.name_of(value) or operand.name
                notes.append(Note(f"`{name}` is {graph.type(value)}", node.span))
        self.report(
            mistakes.WrongShape(
                span,
                op=_SYMBOLS.get(op.name, op.name),
                reason=mistake,
                hint=mistake.hint,
                notes=[*notes, *self.call_notes(span)],
            )
        )
        return [POISON]

    def _weights(
        self, op: Op, values: list[Value | None], attributes: dict[str, Any], span: Span, path: Path | None
    ) -> list[Value | None]:
        """The parameter tensors that an op brings, None for those switched off."""
        if not op.weights:
            return []
        types = {
            operand.name: self.frame.graph.type(value)
            for operand, value in zip(op.data_operands, values, strict=True)
            if value is not None
        }
        call = SimpleNamespace(**types, **attributes)
        wanted = [weight for weight in op.weights if weight.when is None or attributes[weight.when]]
        if wanted and self.tie is None and not self._is_placed(path, attributes):
            self._report_unnamed(op, span)
            raise _Reported
        made: dict[str, Value] = {}
        for weight in wanted:
            type_ = weight.type(call)
            self._check_weight_size(type_.shape, span)
            init = (
                attributes["init"] if weight is op.weights[0] and "init" in attributes else weight.start(call)
            )
            init.bounds()
            place = _weight_place(path or (), weight.name, attributes)
            start = Start(init, attributes.get("trained", not weight.whole))
            made[weight.operand_name] = self.weight(place, type_, start, span)
        return [made.get(weight.operand_name) for weight in op.weights]

    def _report_unnamed(self, op: Op, span: Span) -> None:
        """Report that nothing says where an op's weights lie; in another file, its block is what is known."""
        unknown = [block.name for block, called in self.calls[-1:] if called.source is not span.source]
        around = "; `as {none}` is the path around it" if unknown and self.prefix else ""
        self.report(mistakes.NeedsPath(span, op=unknown[0] if unknown else op.name, around=around))

    def _is_placed(self, path: Path | None, attributes: dict[str, Any]) -> bool:
        """Whether it is said where an op's weights lie: by itself, or by the call of the block around it."""
        if path or attributes.get("names", "dotted") == "joined":
            return bool(path)
        return bool(self.prefix) and (path is not None or self.is_named)

    def _check_weight_size(self, shape: tuple[Any, ...], span: Span) -> None:
        elements = 1
        for size in shape:
            if not isinstance(size, int):
                raise TypeMistake(f"a parameter of shape {shape_text(shape)} has no known size")
            elements *= int(size)
        if elements > MAX_WEIGHT_ELEMENTS:
            limit = f"2^{MAX_WEIGHT_ELEMENTS.bit_length() - 1} elements"
            self.report(
                mistakes.TooLarge(span, what="a parameter", value=f"shape {shape_text(shape)}", limit=limit)
            )
            raise _Reported


def _weight_place(path: Path, name: str, attributes: dict[str, Any]) -> Place:
    """Where a weight lies: at `path.weight` and `path.bias`, or, joined, at `path` and `path_bias`."""
    stacking = attributes.get("stacking", "planes")
    if attributes.get("names", "dotted") == "dotted" or not path:
        return Place(path, name, stacking)
    return Place(path if name == "weight" else (*path[:-1], f"{path[-1]}_{name}"), "", stacking)
