"""The kernels of a model: where each stands in the graph, and what a call of it costs at the least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from archc.analysis.kernels import Shape, Work, node_bytes, node_flops, type_bytes
from archc.codegen.kernel_planner import KernelPlanner
from archc.codegen.kernels.attention.attention_plan import AttentionKernel
from archc.codegen.kernels.experts.router_plan import RouterKernel
from archc.codegen.kernels.kernel_plan import (
    AbsorptionKernel,
    CapacityKernel,
    EmbeddingKernel,
    GroupedKernel,
    Kernel,
    OpKernel,
    WideLinearKernel,
)
from archc.codegen.kernels.linear.after_plan import LinearAfterKernel
from archc.codegen.kernels.linear.loss_plan import LossKernel
from archc.codegen.kernels.linear.pairs import linears_after
from archc.codegen.kernels.recurrence.recurrence_kernel import CarryingKernel, plan_recurrences
from archc.codegen.kernels.table import KernelTable
from archc.codegen.semantics import Semantics, use_of
from archc.compiler import Compilation
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.rule import Rule, decomposition, rule_of
from archc.ir.types import DType, TensorType


@dataclass(frozen=True)
class Place:
    """A kernel and the first node that calls it; the loss's stands for no node.

    `reference`: the functions of reference.py that the unfused model calls in its place, on operands of its
    own; none where those of the kernel will do.
    `linear`: the linear map that the kernel computes with the node, of a single row.
    """

    name: str
    plan: Kernel
    graph: Graph
    node: Node | None
    reference: tuple[str, ...] = ()
    linear: Node | None = None

    @property
    def rule(self) -> Rule | None:
        return None if self.node is None else rule_of(self.node)

    @property
    def feature(self) -> str:
        """The fusion or the op that it is."""
        if self.node is None:
            return "linear_cross_entropy"
        if self.linear is not None:
            return self.name
        return self.rule.name if self.rule else self.node.op.name

    @property
    def module(self) -> str:
        """The module of a package whose function of this name a model calls."""
        if self.node is None or isinstance(self.plan, WideLinearKernel):  # noise goes through it as well
            return "kernels"
        return self.node.op.module or "kernels"

    @property
    def has_forward(self) -> bool:
        """Whether it computes more than a gradient: rows of tables are PyTorch's to look up."""
        return not isinstance(self.plan, EmbeddingKernel)

    @property
    def has_gradient(self) -> bool:
        """Whether anything comes back through it: what only sorts has none, nor has a single row."""
        if self.linear is not None:
            return False
        floats = (DType.FLOAT, DType.F32)
        return self.node is None or any(type_.dtype in floats for type_ in self.node.types)

    def forward(self, shape: Shape, element: int) -> Work:
        """What a call computes and moves; `element` is the size of the model's dtype."""
        if isinstance(self.plan, LossKernel):
            return _loss_work(self.plan, shape.batch * (shape.tokens - 1), element)
        assert self.node is not None
        sizes = shape.sizes(self.graph)
        works = [
            node_flops(self.graph, node, sizes) + Work(bytes=node_bytes(self.graph, node, sizes, element))
            for node in (self.node, self.linear)
            if node is not None
        ]
        return sum(works[1:], works[0]) + Work(bytes=-self._in_registers(shape, element))

    def _in_registers(self, shape: Shape, element: int) -> int:
        """The bytes of the row that the linear map does not read, and that the node may not write."""
        if self.linear is None or self.linear.inputs[0] is None:
            return 0
        assert isinstance(self.plan, LinearAfterKernel)
        row = self.graph.type(self.linear.inputs[0])
        moved = type_bytes(row.bind(shape.sizes(self.graph)), element)
        return moved if self.plan.reading.kept else 2 * moved

    def backward(self, shape: Shape, element: int) -> Work:
        """What its gradient computes, and moves by its plan: what comes in, was kept, and goes out."""
        forward = self.forward(shape, element)
        if isinstance(self.plan, EmbeddingKernel):  # all of a table has a gradient
            return Work(vector=self._additions(shape), bytes=self._whole_bytes(shape, element))
        twice = Work(2 * forward.matrix, 2 * forward.vector, 2 * forward.bytes)
        if isinstance(self.plan, CarryingKernel):
            return Work(twice.matrix, twice.vector, self._training_bytes(shape, element))
        if not isinstance(self.plan, OpKernel | RouterKernel):
            return twice
        types, sizes = self._types(), shape.sizes(self.graph)
        names = [argument.name for argument in self.plan.op.incoming] + list(self.plan.op.gradients)
        moved = sum(_bytes(_named(name, types), sizes, element) for name in names)
        return Work(twice.matrix, twice.vector, moved)

    def _additions(self, shape: Shape) -> int:
        """Of each number that comes in to its token's row."""
        assert self.node is not None
        return self.node.types[0].bind(shape.sizes(self.graph)).numel()

    def _whole_bytes(self, shape: Shape, element: int) -> int:
        """The size of all operands and results, or of their gradients."""
        assert self.node is not None
        values = [value for value in (*self.node.inputs, *self.node.outputs) if value is not None]
        sizes = shape.sizes(self.graph)
        return sum(type_bytes(self.graph.type(value).bind(sizes), element) for value in values)

    def _training_bytes(self, shape: Shape, element: int) -> int:
        """The operands of what carries a state, but that, what comes in for results, and their gradients."""
        assert self.node is not None
        sizes, state = shape.sizes(self.graph), self.node.operand("state")
        types = [self.graph.type(value) for value in self.node.inputs if value not in (None, state)]
        gradients = [type_ for type_ in types if type_.dtype.is_floating]
        return sum(_bytes(type_, sizes, element) for type_ in (*types, *self.node.types, *gradients))

    def _types(self) -> dict[str, TensorType]:
        """Operands and outputs by name."""
        assert self.node is not None
        assert self.rule is not None
        named = zip((*self.rule.operands, *self.rule.weights), self.node.inputs, strict=True)
        operands = {name: self.graph.type(value) for name, value in named if value is not None}
        return operands | dict(zip(self.rule.output_names, self.node.types, strict=True))


def places(compilation: Compilation) -> list[Place]:
    """All kernels of a model that ops call, and the loss, in the order of its file of kernels."""
    graph = compilation.fused
    everything = [(part, node) for part in graph.walk() for node in part.nodes()]
    fused = [(part, node) for part, node in everything if rule_of(node)]
    table = KernelTable(list(graph.walk()))
    called = {table.name(*place): place for place in reversed(fused)}
    of_op = {node.op.name: (part, node) for part, node in reversed(everything)}
    found: list[Place] = []
    planner = KernelPlanner(compilation.program, graph, compilation.reference, tuned=compilation.tuned)
    recurrences = plan_recurrences(list(graph.walk()), planner.semantics)
    recurs = {recurrences.function(*place): place for place in reversed(everything)}
    with_linear = {
        (table.name(part, part.node(number)), pair.reading): (part, part.node(number), pair.linear)
        for part in reversed(list(graph.walk()))
        for number, pair in linears_after(part, compilation.tuned).items()
    }
    for plan in planner.kernels:
        if isinstance(plan, LinearAfterKernel):
            part, node, linear = with_linear[plan.before, plan.reading]
            found.append(Place(plan.name, plan, part, node, linear=linear))
        elif isinstance(plan, GroupedKernel):
            found += [Place(name, plan, *of_op[name]) for name in _OF_EXPERTS if name in of_op]
        elif isinstance(plan, CapacityKernel):
            found.append(Place(plan.name, plan, *of_op[plan.name], planner.semantics.names(plan.plain)))
        elif isinstance(plan, AbsorptionKernel | EmbeddingKernel):
            found.append(Place(plan.name, plan, *of_op[plan.name]))
        elif isinstance(plan, AttentionKernel):
            place = called[plan.name]
            found.append(Place(plan.name, plan, *place, (_attends(*place, planner.semantics),)))
        elif isinstance(plan, CarryingKernel):
            found.append(Place(plan.name, plan, *recurs[f"kernels.{plan.name}"]))
        elif isinstance(plan, WideLinearKernel):
            op = plan.name if plan.name in of_op else "jittered_linear"
            found.append(Place(plan.name, plan, *of_op[op]))
        elif plan.name in called or isinstance(plan, LossKernel):
            found.append(Place(plan.name, plan, *called.get(plan.name, (graph, None))))
    return found


def _attends(graph: Graph, node: Node, semantics: Semantics) -> str:
    """The function of reference.py for the attention in a fusion, which is the last of its steps."""
    *_, attend = decomposition(graph, node).nodes()
    return semantics.name(use_of(attend))


# What kernels of experts compute: several ops are one plan.
_OF_EXPERTS = ("combine", "dispatched_linear", "grouped_linear", "sort_choices", "weighted_combine")


def _named(name: str, types: Mapping[str, TensorType]) -> TensorType | None:
    """The type of a value, or of the gradient of one, which is called the same with a d before it."""
    return types.get(name) or types.get(name.removeprefix("d"))


def _bytes(type_: TensorType | None, sizes: Mapping[str, int], element: int) -> int:
    return 0 if type_ is None else type_bytes(type_.bind(sizes), element)


def _loss_work(plan: LossKernel, rows: int, element: int) -> Work:
    """The loss and its gradients: three products, of which no logits need to reach memory."""
    hidden, weight = rows * plan.width, plan.vocabulary * plan.width
    return Work(matrix=6 * rows * weight, bytes=2 * element * (hidden + weight))
