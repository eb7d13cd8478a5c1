"""A bias before an activation is added by the activation's kernel."""

from __future__ import annotations

from archc.ir.decomposition import OperandRef, StepRef
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.op import OPS
from archc.ir.ops.linear import LINEAR
from archc.ir.rule import Rule
from archc.passes.context import Context

ADD = OPS["add"]


def split_bias(graph: Graph, context: Context) -> None:
    """Turn act(x W + b) into act((x W) + b) where a fusion takes the sum and the activation together."""
    activations = {name for rule in context.rules if (name := _biased_activation(rule))}
    if "pointwise" not in context.target.families:
        return
    for part in graph.walk():
        for node in part.nodes():
            if node.op is LINEAR and node.inputs[2] is not None:
                users = part.users(node.outputs[0])
                if len(users) == 1 and users[0][0].op.name in activations:
                    _split(part, node)


def _biased_activation(rule: Rule) -> str:
    """The activation of a rule of the form act(x + bias)."""
    if len(rule.steps) != 2 or rule.steps[0].op is not ADD or rule.operands != ("x", "bias"):
        return ""
    adds_bias = rule.steps[0].inputs == (OperandRef("x"), OperandRef("bias"))
    return rule.steps[1].op.name if adds_bias and rule.steps[1].inputs == (StepRef(0),) else ""


def _split(graph: Graph, linear: Node) -> None:
    x, weight, bias = linear.inputs
    bare = graph.add_like(linear, LINEAR, [x, weight, None], linear.attributes)
    total = graph.add_like(linear, ADD, [bare.outputs[0], bias], names=linear.names)
    graph.replace_uses(linear.outputs[0], total.outputs[0])
    graph.remove(linear)
