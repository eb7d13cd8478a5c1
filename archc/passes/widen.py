"""A linear map in float32 reads half-precision operands as they are and accumulates in float32.

The product of two half-precision numbers is exact in float32, so the operands need not be cast first.  Noise
that training adds to the input is still added in float32.  A running maximum, which is float32 whatever it is
of, reads its operands as they are, too.
"""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.op import OPS
from archc.ir.ops.linear import LINEAR, WIDE_LINEAR
from archc.ir.ops.recurrence import CARRIED
from archc.ir.ops.running_maximum import CARRY_MAXIMUM
from archc.ir.ops.training import JITTER, JITTERED_LINEAR
from archc.ir.types import DType
from archc.passes.context import Context, made_by, place_of
from archc.passes.report import Fired

UPCAST = OPS["upcast"]


def join_wide_linears(graph: Graph, context: Context) -> None:
    """Let linear maps and running maxima in float32 read their operands as they are, where the target can."""
    if "wide_linear" not in context.target.families:
        return
    for part, times in graph.runs():
        for node in part.nodes():
            if node.op is LINEAR and node.attributes["wide"] and node.attributes["layout"] == "out_in":
                _join(part, node, times, context)
            elif node.op is CARRY_MAXIMUM:
                _read_uncast(part, node)


def _join(graph: Graph, linear: Node, times: int, context: Context) -> None:
    """Read what stands before the cast, or before the cast and the noise on it."""
    noise = made_by(graph, linear.inputs[0], JITTER)
    cast = made_by(graph, (noise or linear).inputs[0], UPCAST)
    if noise is not None and (cast is None or len(graph.users(noise.outputs[0])) > 1):
        noise = cast = None
    x = (cast or linear).inputs[0]
    if x is None or graph.type(x).dtype is not DType.FLOAT:
        return
    op, attributes = (JITTERED_LINEAR, noise.attributes) if noise is not None else (WIDE_LINEAR, {})
    joined = graph.add_like(linear, op, [x, *linear.inputs[1:]], attributes, names=linear.names)
    graph.replace_uses(linear.outputs[0], joined.outputs[0])
    graph.remove_unread([node for node in (cast, noise, linear) if node is not None])
    context.report.fired.append(Fired(op.name, place_of(joined), times, (), linear.span))


def _read_uncast(graph: Graph, maximum: Node) -> None:
    """Read what stands before casts; so does the state, which is for as many sequences as there are."""
    state = made_by(graph, maximum.named.get("state"), CARRIED)
    for node in (state, maximum) if state is not None else (maximum,):
        casts = [made_by(graph, value, UPCAST) for value in node.inputs]
        given = [cast.inputs[0] if cast else value for cast, value in zip(casts, node.inputs, strict=True)]
        graph.update(node, inputs=tuple(given))
        graph.remove_unread([cast for cast in casts if cast is not None])
