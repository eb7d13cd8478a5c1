"""The kernels of a model: where each stands in the graph, and what a call of it costs at the least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from archc.analysis.kernels import Shape, Work, node_bytes, node_flops, type_bytes
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
from archc.codegen.kernels.recurrence.recurrence_kernel import CarryingKernel
from archc.codegen.semantics import Semantics, use_of
from archc.compiler import Compilation
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.rule import decomposition, fused_by, rule_of
from archc.ir.types import TensorType


@dataclass(frozen=True)
class Place:
    """A kernel and the first node that calls it; for the loss, the weight of the logits.

    `reference`: the functions of reference.py that the unfused model calls in its place, on operands of its
    own; none where those of the kernel will do.
    `linear`: the linear map that the kernel computes with the node, of a single row.
    """

    name: str
    plan: Kernel
    graph: Graph
    node: Node
    reference: tuple[str, ...] = ()
    linear: Node | None = None

    @property
    def feature(self) -> str:
        """The fusion or the op that it is."""
        alone = self.linear is None and not isinstance(self.plan, LossKernel)
        return self.node.op.name if alone else self.name

    @property
    def module(self) -> str:
        """The module of a package whose function of this name a model calls."""
        if isinstance(self.plan, WideLinearKernel):  # noise goes through it as well
            return "kernels"
        return self.node.op.module or "kernels"

    @property
    def has_forward(self) -> bool:
        """Whether it computes more than a gradient: rows of tables are PyTorch's to look up."""
        return not isinstance(self.plan, EmbeddingKernel)

    @property
    def has_gradient(self) -> bool:
        """Whether anything comes back through it: what only sorts has none, nor has a single row."""
        return self.linear is None and any(type_.dtype.is_floating for type_ in self.node.types)

    def forward(self, shape: Shape, element: int) -> Work:
        """What a call computes and moves; `element` is the size of the model's dtype."""
        if isinstance(self.plan, LossKernel):
            return _loss_work(self.plan, shape.batch * (shape.tokens - 1), element)
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
        return self.node.types[0].bind(shape.sizes(self.graph)).numel()

    def _whole_bytes(self, shape: Shape, element: int) -> int:
        """The size of all operands and results, or of their gradients."""
        values, sizes = (*self.node.operands, *self.node.outputs), shape.sizes(self.graph)
        return sum(type_bytes(self.graph.type(value).bind(sizes), element) for value in values)

    def _training_bytes(self, shape: Shape, element: int) -> int:
        """The operands of what carries a state, but that, what comes in for results, and their gradients."""
        sizes, operands = shape.sizes(self.graph), self.graph.operand_types(self.node)
        types = [type_ for name, type_ in operands.items() if name != "state"]
        gradients = [type_ for type_ in types if type_.dtype.is_floating]
        return sum(_bytes(type_, sizes, element) for type_ in (*types, *self.node.types, *gradients))

    def _types(self) -> dict[str, TensorType]:
        """Operands and outputs by name."""
        outputs = zip(fused_by(self.node).output_names, self.node.types, strict=True)
        return self.graph.operand_types(self.node) | dict(outputs)


def places(compilation: Compilation) -> list[Place]:
    """All kernels of a model that ops call, and the loss, in the order of its file of kernels."""
    planner = compilation.planner
    parts, name = planner.parts, planner.table.name
    nodes = [(part, node) for part in reversed(parts) for node in reversed(part.nodes())]  # the first stays
    called = {name(*place): place for place in nodes if rule_of(place[1])}
    of_op = {node.op.name: (part, node) for part, node in nodes}
    recurs = {planner.recurrences.function(*place): place for place in nodes}
    with_linear = {
        (name(part, part.node(number)), pair.reading): (part, part.node(number), pair.linear)
        for part in reversed(parts)
        for number, pair in planner.pairs(part).items()
    }
    found: list[Place] = []
    for plan in planner.kernels:
        if isinstance(plan, LinearAfterKernel):
            part, node, linear = with_linear[plan.before, plan.reading]
            found.append(Place(plan.name, plan, part, node, linear=linear))
        elif isinstance(plan, GroupedKernel):
            found += [Place(op, plan, *of_op[op]) for op in _OF_EXPERTS if op in of_op]
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
        elif isinstance(plan, LossKernel) and planner.cut:
            found.append(Place(plan.name, plan, compilation.fused, planner.cut.weight))
        elif plan.name in called:
            found.append(Place(plan.name, plan, *called[plan.name]))
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
