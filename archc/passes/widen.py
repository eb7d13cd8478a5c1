"""A linear map that is asked for in float32 multiplies what there is, and adds it up in float32.

The products of two numbers of half precision are exact there: neither need be written down wider first.
"""

from __future__ import annotations

from archc.ir.graph import Graph, Node
from archc.ir.op import OPS
from archc.ir.ops.linear import WIDE_LINEAR
from archc.ir.types import DType
from archc.passes.context import Context, place_of
from archc.passes.report import Fired

LINEAR = OPS["linear"]


def join_wide_linears(graph: Graph, context: Context) -> None:
    """Let linear maps in float32 read their operands as they are, where the target can."""
    if "wide_linear" not in context.target.families:
        return
    for part, times in graph.runs():
        for node in part.nodes():
            if node.op is LINEAR and node.attributes["wide"] and _reads_as_held(part, node):
                _join(part, node, times, context)


def _reads_as_held(graph: Graph, linear: Node) -> bool:
    """Whether both operands are of the model's dtype, and the weight [out, in]."""
    x = linear.inputs[0]
    narrow = x is not None and graph.type(x).dtype is DType.FLOAT
    return narrow and linear.attributes["layout"] == "out_in"


def _join(graph: Graph, linear: Node, times: int, context: Context) -> None:
    joined = graph.add_like(linear, WIDE_LINEAR, linear.inputs, names=linear.names)
    graph.replace_uses(linear.outputs[0], joined.outputs[0])
    graph.remove(linear)
    context.report.fired.append(Fired("wide_linear", place_of(joined), times, (), linear.span))
