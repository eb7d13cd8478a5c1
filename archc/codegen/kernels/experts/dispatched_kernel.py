"""Plans for products of experts with an activation after them: its formulas, on sums in registers."""

from __future__ import annotations

from archc.codegen.kernels.experts.dispatched_plan import DispatchedKernel
from archc.codegen.kernels.fused import Fused, width_of
from archc.codegen.kernels.rows.pointwise import KERNEL_NAMES, Writer, analyse
from archc.ir.family import SPLITS
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.types import TensorType

# What variables of the kernel, and of the functions around it, are called.
_KERNEL = (
    "own start end block row column lane output inside there choice place kept mask outputs x_rows offset"
)
_LOCALS = (
    "x order places weight ends offset factors keeps rows count tile outputs step columns warps tiles "
    "x_rows given"
)


def activation_of(form: Graph) -> Node:
    """The activation in the decomposition of a product with one: its last step."""
    return form.node(form.outputs[0][1])


def plan_dispatched(name: str, node: Node, x: TensorType, activation: Fused) -> DispatchedKernel:
    """The kernel of a node of the family of experts, given its tokens and the activation by itself."""
    formulas = analyse(activation.form, [*KERNEL_NAMES, *_KERNEL.split()])
    (operand,), ((result, formula),) = activation.types, formulas.outputs.items()
    product, output = (
        other if name in _LOCALS.split() else name
        for name, other in ((operand, "product"), (result, "result"))
    )
    parts = tuple(formulas.leaves.values())
    writer = Writer(taken={*parts, product, *_KERNEL.split()}, names=formulas.names)
    writer.assign(output, formula)
    splits = [each.op.name for each in activation.form.nodes() if each.op.name in SPLITS]
    place = node.span or activation.rule.span
    return DispatchedKernel(
        name=name,
        equation=(f"{operand} = dispatched_linear({', '.join(node.named)})", *activation.equation),
        layout=f"x [B, T, {width_of(x)}] -> {output} {node.types[0].shape_code}.  {place.line_reference}",
        activation=activation.name,
        product=product,
        parts=parts,
        interleaved="split_interleaved" in splits,
        output=output,
        width=width_of(node.types[0]),
        lines=tuple(writer.lines),
    )
