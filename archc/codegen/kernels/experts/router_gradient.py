"""The gradient of a choice of experts as Triton: its steps in reverse, with the values they need recomputed.

The chosen experts are read, not searched for again: the gradient is that of the weights of these choices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from archc.codegen.kernels.experts.router_lines import CASTS, RouterWriter
from archc.codegen.kernels.fused import power_of_two
from archc.codegen.kernels.rows.row_writer import needed_lines
from archc.ir.expr import Expr, Formula, leaf, leaves
from archc.ir.node import Node, Value
from archc.ir.op import OPS
from archc.ir.ops.experts import WITH_SHARED
from archc.ir.ops.structure import CONSTANT, INPUT

CONCAT, TOP_K = OPS["concat"], OPS["top_k"]
_LONG = 96  # columns of a sum on one line


@dataclass
class GradientWriter(RouterWriter):
    """Writes the gradient of a decomposition.

    parts:    what is added up to each value's gradient
    same:     those of them that are one number for all of a row
    wanted:   the operands that have one, in order
    incoming: the outputs whose gradients are read
    chosen:   the outputs that are read: what was chosen
    """

    parts: defaultdict[Value, list[str]] = field(default_factory=lambda: defaultdict(list))
    same: defaultdict[Value, list[str]] = field(default_factory=lambda: defaultdict(list))
    wanted: list[str] = field(default_factory=list)
    incoming: list[str] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)

    def write(self) -> list[str]:
        """The statements of the gradient, with a store for each operand's."""
        form = self.fused.form
        self.outputs = {
            value: name for (_, value), name in zip(form.outputs, self._output_names, strict=True)
        }
        for value, name in self.outputs.items():
            if form.type(value).dtype.is_floating:
                self._incoming(value, name)
        for node in reversed(form.nodes()):
            if node.op not in (INPUT, CONSTANT) and any(value in self.parts for value in node.outputs):
                self._back(node)
        for value in form.inputs:
            if value in self.parts:
                self._store_gradient(value)
        needed, _ = needed_lines(self.lines)
        return needed

    @property
    def _output_names(self) -> tuple[str, ...]:
        return self.fused.rule.output_names

    def _read(self, value: Value) -> str:
        """The text of a value, which is computed when it is first read."""
        if value not in self.names:
            node = self.fused.form.node(value)
            if node.op is TOP_K and self._place_in_output(Value(node.id, 1)) is not None:
                self._choice(node, value)
            elif node.op is not INPUT:
                self._step(node)
        return super()._read(value)

    def _choice(self, node: Node, value: Value) -> None:
        """What was chosen, or the scores of that."""
        places = Value(node.id, 1)
        if value != places:
            scores, index = self._read(node.first), self._read(places)
            self._let(value, self._gathered(scores, index, self.fused.form.type(node.first)))
            return
        found = self._place_in_output(places)
        assert found is not None
        (output, first), type_ = found, self.fused.form.type(places)
        name, width = self.outputs[output], self.fused.form.type(output).width
        self.names[places] = loaded = self._fresh(self.fused.form.name_of(places) or name)
        if name not in self.chosen:
            self.chosen.append(name)
        place = f"row * {width} + {f'{first} + ' if first else ''}{self._block(type_)}"
        mask = self._mask(type_, ", other=-1")
        self.lines.append(f"{loaded} = tl.load({name}_ptr + {place}{mask}).to(tl.int32)")

    def _unchosen(self, size: int) -> str:
        """No expert's number: in lanes beyond the last choice a slope may be 0 / 0, which none is given."""
        return f"tl.full([{size}], -1, tl.int32)"

    def _place_in_output(self, places: Value) -> tuple[Value, int] | None:
        """The output that holds what was chosen, and from which column on."""
        for output in self.outputs:
            if output == places:
                return output, 0
            node = self.fused.form.node(output)
            for value, first in self._parts(node) if node.op in (CONCAT, WITH_SHARED) else ():
                if value == places:
                    return output, first
        return None

    def _incoming(self, value: Value, name: str) -> None:
        type_, loaded = self.fused.form.type(value), self._fresh(f"d{name}")
        place = "row" if value in self.numbers else f"row * {type_.width} + {self._block(type_)}"
        mask = "" if value in self.numbers else self._mask(type_, ", other=0.0")
        self.lines.append(f"{loaded} = tl.load(d{name}_ptr + {place}{mask}).to(tl.float32)")
        self.incoming.append(name)
        self.parts[value].append(loaded)

    def _gradient(self, value: Value) -> str:
        """The name of a value's gradient, all of whose parts are there."""
        terms = list(self.parts[value])
        if terms == self.same[value] and self._width(value) > 1:
            terms.insert(0, f"tl.zeros([{power_of_two(self._width(value))}], tl.float32)")
        text = " + ".join(terms).replace("+ -", "- ")
        if not text.isidentifier():
            node = self.fused.form.node(value)
            name = self._fresh(f"d{self.fused.form.name_of(value) or self.names.get(value) or node.op.name}")
            first, *more = [text] if len(text) <= _LONG else terms
            self.lines += [f"{name} = {first}", *(f"{name} += {term}" for term in more)]
            self.parts[value] = [text := name]
        return text

    def _add(self, value: Value, text: str, width: int) -> None:
        """Add a part, of so many numbers, to the gradient of a value; of a single number it is their sum."""
        type_ = self.fused.form.type(value)
        if not type_.dtype.is_floating:  # of what was chosen only the number is read, which has no gradient
            return
        if self._width(value) == 1 and width > 1:
            text = f"tl.sum({self._inside(type_.with_width(width), text, '0.0')}, 0)"
        self.parts[value].append(text)

    def _width(self, value: Value) -> int:
        return 1 if value in self.numbers else int(self.fused.form.type(value).width)

    def _back(self, node: Node) -> None:
        """Add what the operands of a step get of its gradient."""
        written = getattr(self, f"_{node.op.name}_back", None)
        gradient = self._gradient(node.outputs[0])
        if node.op.name in CASTS:
            self._add(node.first, gradient, self._width(node.outputs[0]))
        elif written is not None:
            written(node, gradient)
        else:
            self._elementwise_back(node, gradient)

    def _elementwise_back(self, node: Node, gradient: str) -> None:
        """By the op's derivative; only operands that stand in it are computed."""
        operands = {f"operand {place}": value for place, value in enumerate(node.operands)}
        for place, formula in node.op.gradients(leaf(gradient), list(map(leaf, operands))):
            value = node.operands[place]
            if self.fused.form.node(value).op is not CONSTANT:
                read = leaves(formula)
                names = {mark: self._read(each) for mark, each in operands.items() if mark in read}
                text = self.arithmetic.text(_with(formula, names), 1)
                self._add(value, text, self._width(node.outputs[0]))

    def _softmax_back(self, node: Node, gradient: str) -> None:
        share, type_ = self._read(node.outputs[0]), self.fused.form.type(node.outputs[0])
        mean = self._fresh("mean")
        self.lines.append(f"{mean} = tl.sum({self._inside(type_, f'{gradient} * {share}', '0.0')}, 0)")
        self._add(node.first, f"{share} * ({gradient} - {mean})", self._width(node.outputs[0]))

    def _sum_back(self, node: Node, gradient: str) -> None:
        self._add(node.first, gradient, 1)
        self.same[node.first].append(gradient)

    def _concat_back(self, node: Node, gradient: str) -> None:
        for value, first in self._parts(node):
            self._part_back(node, value, gradient, first)

    def _with_ones_back(self, node: Node, gradient: str) -> None:
        self._part_back(node, node.first, gradient, 0)

    def _part_back(self, node: Node, value: Value, gradient: str, first: int) -> None:
        """Add a row's part of the gradient of a longer one."""
        type_, lane = self.fused.form.type(value), self._block(node.types[0])
        if type_.width == 1:
            self._add(value, f"tl.sum(tl.where({lane} == {first}, {gradient}, 0.0), 0)", 1)
            return
        own = self._block(type_)
        match = f"({own} + {first})[:, None]" if first else f"{own}[:, None]"
        part = f"tl.sum(tl.where({match} == {lane}[None, :], {gradient}[None, :], 0.0), 1)"
        self._add(value, self._inside(type_, part, "0.0"), int(type_.width))

    def _loads_back(self, _node: Node, _gradient: str) -> None:
        """Counts have none."""

    def _top_k_back(self, node: Node, gradient: str) -> None:
        self._scatter(node.first, self._read(node.outputs[1]), gradient)

    def _gather_back(self, node: Node, gradient: str) -> None:
        self._scatter(node.first, self._read(node.operands[1]), gradient)

    def _scatter(self, value: Value, index: str, gradient: str) -> None:
        """Add the gradients of gathered values at their places in a row."""
        lane = self._block(self.fused.form.type(value))
        match = f"{index}[:, None] == {lane}[None, :]"
        self._add(value, f"tl.sum(tl.where({match}, {gradient}[:, None], 0.0), 0)", self._width(value))

    def _group_mask_back(self, node: Node, gradient: str) -> None:
        """Filled scores have no gradient."""
        self._read(node.outputs[0])
        text = f"tl.where({self.seen[node.id]}, {gradient}, 0.0)"
        self._add(node.first, text, self._width(node.outputs[0]))

    def _store_gradient(self, value: Value) -> None:
        """Row by row, also of a vector that all rows share: PyTorch adds its rows up."""
        name, type_ = self.fused.form.name_of(value), self.fused.form.type(value)
        rows = f"d{name}_rows" if len(type_.shape) == 1 else f"d{name}"
        self.wanted.append(name)
        block = self._block(type_)
        place = f"{rows}_ptr + row * {type_.width} + {block}"
        self.lines.append(f"tl.store({place}, {self._gradient(value)}{self._mask(type_)})")


def _with(formula: Formula, names: Mapping[str, str]) -> Formula:
    """A formula with names, or numbers, in the place of marks."""
    if not isinstance(formula, Expr):
        return formula
    if formula.op == "leaf":
        (name,) = formula.args
        assert isinstance(name, str)
        return leaf(names.get(name, name))
    args = tuple(arg if isinstance(arg, str) else _with(arg, names) for arg in formula.args)
    return Expr(formula.op, args)
