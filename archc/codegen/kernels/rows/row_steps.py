"""A fusion of rows as steps in the order of its kernel: each step becomes a statement.

A norm becomes several: "centred" for the mean, "rstd" for the root mean square, then products and sums; a
linear map to one number becomes the sum of products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from archc.codegen.kernels.rows.pointwise import KERNEL_NAMES
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.structure import CONSTANT, INPUT
from archc.ir.row_form import RENAMED, RESERVED, SUMS

Ref: TypeAlias = str | float
ALONG = frozenset({"sum", "centred", "rstd"})  # of all columns of a row


@dataclass(frozen=True)
class RowStep:
    """A value of a row, of `columns` numbers or of one.

    op: an elementwise op, or "sum", "centred" (less the mean), "rstd" (one over the root of the mean square)
    eps: what "rstd" adds to the mean
    """

    name: str
    op: str
    inputs: tuple[Ref, ...]
    columns: int
    eps: float = 0.0


@dataclass
class RowSteps:
    """The steps of a decomposition.  `columns`: how many numbers each value has, by name."""

    form: Graph
    columns: dict[str, int]
    steps: list[RowStep] = field(default_factory=list)
    refs: dict[Value, Ref] = field(default_factory=dict)

    @staticmethod
    def of(form: Graph, columns: Mapping[str, int]) -> RowSteps:
        """The steps of a form whose operands, or their parts, have so many columns."""
        found = RowSteps(form, dict(columns))
        for node in form.nodes():
            found._enter(node)
        return found

    @property
    def outputs(self) -> list[tuple[str, str]]:
        """Results, and the names of their values."""
        return [(name, str(self.refs[value])) for name, value in self.form.outputs]

    @property
    def parts(self) -> dict[str, list[str]]:
        """The values that operands are split into."""
        return {
            self.form.name_of(node.first): [str(self.refs[value]) for value in node.outputs]
            for node in self.form.nodes()
            if node.op.name == "split"
        }

    def _enter(self, node: Node) -> None:
        if node.op is INPUT:
            self.refs[node.outputs[0]] = self.form.name_of(node.outputs[0])
        elif node.op is CONSTANT:
            self.refs[node.outputs[0]] = float(node.attributes["value"])
        elif node.op.name == "split":
            for value in node.outputs:
                name = self._fresh(self.form.name_of(value) or f"part{value.output}")
                self.refs[value], self.columns[name] = name, int(self.form.type(value).width)
        elif node.op.name in RENAMED:
            self.refs[node.outputs[0]] = self.refs[node.first]
        else:
            inputs = tuple(self.refs[value] for value in node.operands)
            self.refs[node.outputs[0]] = self._compute(node, inputs)

    def _compute(self, node: Node, inputs: tuple[Ref, ...]) -> str:
        name = self._name_of(node)
        if node.op.has(Trait.NORM):
            return self._norm(node, name)
        if node.op is LINEAR:
            return self._dot(inputs, name)
        if node.op.name in SUMS:
            total = self._add("sum", inputs, name if node.op.name == "sum" else self._fresh("total"), 1)
            count = float(self._columns(inputs[0]))
            return total if node.op.name == "sum" else self._add("div", (total, count), name, 1)
        return self._add(node.op.name, inputs, name, max(map(self._columns, inputs)))

    def _dot(self, inputs: tuple[Ref, ...], name: str) -> str:
        """The sum of x * weight [+ bias]."""
        x, weight, *bias = inputs
        product = self._add("mul", (x, weight), self._fresh("product"), self._columns(x))
        total = self._add("sum", (product,), self._fresh("total") if bias else name, 1)
        return self._add("add", (total, bias[0]), name, 1) if bias else total

    def _norm(self, node: Node, name: str) -> str:
        """(x [less its mean]) * rstd [* (offset + weight)] [+ bias]."""
        given = {name: self.refs[value] for name, value in node.named.items()}
        x, columns = given["x"], self._columns(given["x"])
        if node.op.name == "layer_norm":
            x = self._add("centred", (x,), self._fresh("centred"), columns)
        rstd = self._add("rstd", (x,), self._fresh("rstd"), 1, node.attributes["eps"])
        weight, bias = given.get("weight"), given.get("bias")
        y = self._add("mul", (x, rstd), self._fresh("normed") if weight or bias else name, columns)
        if weight is not None:
            offset = float(node.attributes["offset"])
            factor = weight
            if offset:
                factor = self._add("add", (offset, weight), self._fresh("factor"), columns)
            y = self._add("mul", (y, factor), self._fresh("scaled") if bias else name, columns)
        return self._add("add", (y, bias), name, columns) if bias else y

    def _name_of(self, node: Node) -> str:
        """A free name for what a node makes: its result's own where it is one."""
        for name, value in self.form.outputs:
            if value == node.outputs[0]:
                return name
        return self._fresh(self.form.name_of(node.outputs[0]) or node.op.name)

    def _columns(self, ref: Ref) -> int:
        return self.columns[ref] if isinstance(ref, str) else 1

    def _add(self, op: str, inputs: tuple[Ref, ...], name: str, columns: int, eps: float = 0.0) -> str:
        """A step's name: that of an equal one, if there is one already."""
        for step in self.steps:
            if (step.op, step.inputs, step.eps) == (op, inputs, eps):
                return step.name
        self.columns[name] = columns
        self.steps.append(RowStep(name, op, inputs, columns, eps))
        return name

    def _fresh(self, name: str) -> str:
        """A name that is no other value's, nor that of a gradient, whose own gradient's name is free too."""
        others = [*self.columns, *(end for end, _ in self.form.outputs)]
        gradients = [f"d{other}" for other in others]
        sources = [other.removeprefix("d") for other in others]
        return unique(name, [*KERNEL_NAMES, *RESERVED, *others, *gradients, *sources])
