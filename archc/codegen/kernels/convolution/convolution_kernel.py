"""Plans for convolutions and shifts over tokens, with the elementwise ops after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from archc.codegen.code import Line
from archc.codegen.kernels.convolution.convolution_plan import ConvolutionKernel
from archc.codegen.kernels.fused import Fused, plain_form, width_of
from archc.codegen.kernels.rows.pointwise import Pointwise, Writer, analyse
from archc.codegen.kernels.rows.row_writer import names_in
from archc.codegen.semantics import use_of
from archc.ir.convolution_form import LOOKS, RESERVED, offsets
from archc.ir.expr import Expr
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.op import Op
from archc.ir.rule import as_value


def plan_convolution(fused: Fused) -> ConvolutionKernel:
    """The kernels of a rule of the convolution family."""
    return _Planner(fused).kernel()


@dataclass(frozen=True)
class _Planner:
    """What the parts of a plan have in common."""

    fused: Fused

    @cached_property
    def node(self) -> Node:
        """The look at earlier tokens."""
        return next(node for node in self.fused.form.nodes() if node.op in LOOKS)

    @cached_property
    def operands(self) -> list[str]:
        """The names of what the look reads."""
        return [self.fused.form.name_of(value) for value in self.node.operands]

    @cached_property
    def others(self) -> list[str]:
        """The names of what is read besides."""
        return [name for name in self.fused.types if name not in self.operands]

    @cached_property
    def result(self) -> str:
        return self.fused.rule.output_names[0]

    @cached_property
    def look(self) -> str:
        """What the look finds: the result itself where nothing follows."""
        return self.fused.form.name_of(self.node.outputs[0]) if self.follows else self.result

    @property
    def follows(self) -> bool:
        return len(self.fused.rule.steps) > 1

    @cached_property
    def after(self) -> Graph:
        """What follows, as a decomposition that is given what the look finds."""
        graph = Graph(self.fused.name)
        found = graph.add_input(self.look, self.node.types[0])
        inputs = {name: graph.add_input(name, self.fused.types[name]) for name in self.others}
        names = iter([step.names for step in self.fused.rule.steps])

        def apply(op: Op, values: list[Any], given: dict[str, Any]) -> Sequence[Any]:
            own = next(names)
            if op in LOOKS:
                return [found]
            return graph.add(op, [as_value(graph, value) for value in values], given, names=own).outputs

        outputs = self.fused.rule.run(inputs, {}, apply)
        graph.outputs = list(zip([self.result], outputs, strict=True))
        return graph

    @cached_property
    def formulas(self) -> Pointwise:
        return analyse(self.after)

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(name for name in self.others if len(self.fused.types[name].shape) > 1)

    @cached_property
    def forward(self) -> tuple[str, ...]:
        if not self.follows:
            return ()
        writer = self._writer([self.look, *self.others], self.formulas.names)
        writer.assign(self.result, self.formulas.outputs[self.result])
        return tuple(writer.lines)

    @cached_property
    def backward(self) -> tuple[str, ...]:
        if not self.follows:
            return ()
        leaves = [self.look, *self.others]
        gradients = [f"d{name}" for name in (*leaves, self.result)]
        writer = self._writer([*leaves, *gradients], self.formulas.gradient_names)
        for name in leaves:
            writer.assign(f"d{name}", self.formulas.gradients[name])
        return tuple(writer.lines)

    def _writer(self, taken: Sequence[str], names: Mapping[Expr, str]) -> Writer:
        return Writer(taken={*taken, *RESERVED}, names=names)

    def kernel(self) -> ConvolutionKernel:
        shape = self.node.types[0].shape
        tokens = offsets(self.node.op, self.node.attributes)
        return ConvolutionKernel(
            name=self.fused.name,
            equation=self.fused.equation,
            layout=self.fused.layout,
            look=self.look,
            taps=len(tokens),
            first=tokens.start,
            weights=tuple(self.operands[3:]),
            others=tuple(self.others),
            rows=self.rows,
            result=self.result,
            width=prod(int(dim) for dim in shape[2:]),
            channels=width_of(self.node.types[0]),
            dims=len(shape),
            forward=self.forward,
            backward=self.backward,
            again=frozenset(names_in(" ".join(self.backward)) & {self.look, *self.others}),
            reference=self._reference(),
            plain=self._plain(),
            keeps=self.fused.keeps,
        )

    def _reference(self) -> str:
        """The look by its reference function."""
        x, _, _, *weights = self.operands
        operands = [x, "span.positions", "span.key_positions", *weights]
        texts = {name: repr(int(value)) for name, value in self.node.attributes.items()}
        return self.fused.semantics.call(use_of(self.node), operands, texts, "reference.")

    def _plain(self) -> tuple[Line, ...]:
        if not self.follows:
            return (Line(f"return {self.look}"),)
        return plain_form(self.after, [self.look, *self.others], self.fused.semantics)
