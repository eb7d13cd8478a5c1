"""The activation after a product of experts is computed in the product's kernel, from sums in registers.

Everything that is computed elementwise from the product alone counts as its activation: an existing fusion,
one op, or several.
"""

from __future__ import annotations

from archc.ir.decomposition import AttributeVar, OperandRef, Step, StepRef
from archc.ir.family import SPLITS
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.experts import DISPATCHED_LINEAR
from archc.ir.ops.structure import CONSTANT
from archc.ir.rule import Rule, rule_of
from archc.passes.context import Context, place_of
from archc.passes.outline import Outline
from archc.passes.report import Fired

_MOST_PARTS = 2  # gate and up: a program has both beside each other


def join_activations(graph: Graph, context: Context) -> None:
    """Let products of experts compute the activations after them, where the target can."""
    if not {"experts", "pointwise"} <= context.target.families:
        return
    for part, times in graph.runs():
        for node in part.nodes():
            if node.op is DISPATCHED_LINEAR:
                _join(part, node, times, context)
    context.report.sort()


def _join(graph: Graph, linear: Node, times: int, context: Context) -> None:
    nodes = _after(graph, linear)
    results = graph.left_by([linear, *nodes])
    if not nodes or len(results) != 1 or linear.outputs[0] in results:
        context.report.remark(
            "activate", f"more than an activation reads a product of experts ({place_of(linear)})"
        )
        return
    activation = _activation(graph, linear, nodes, results[0])
    width = int(graph.type(results[0]).width)
    if activation.family != "pointwise" or not _is_even(activation, linear, width):
        context.report.remark(
            "activate", f"`{activation.name}` ({place_of(nodes[-1])}) pairs no columns of its product"
        )
        return
    rule, last = _with_product(activation), graph.node(results[0])
    attributes = last.attributes if rule.attributes else {}
    joined = graph.add_like(last, rule.op, list(linear.inputs), attributes, names=last.names)
    graph.replace_uses(results[0], joined.outputs[0])
    for node in (linear, *nodes):
        context.report.absorb(node.op.name, place_of(node), times)
    graph.remove_unread([linear, *nodes])
    context.report.fired.append(Fired(rule.name, place_of(linear), times, ("fewer_roundings",), linear.span))


def _after(graph: Graph, linear: Node) -> list[Node]:
    """What is computed of a product alone, element by element, in the order of the graph."""
    found = {linear.id: linear}
    for node in graph.nodes():
        made = [value.node for value in node.operands if graph.node(value).op is not CONSTANT]
        alone = bool(made) and all(number in found for number in made)
        if alone and _is_pointwise(node) and node.types[0].dtype is linear.types[0].dtype:
            found[node.id] = node
    return list(found.values())[1:]


def _is_pointwise(node: Node) -> bool:
    rule = rule_of(node)
    if rule is not None:
        return rule.family == "pointwise"
    return node.op.name in SPLITS or bool(
        node.op.has(Trait.ELEMENTWISE) and node.op.triton and not node.attributes
    )


def _is_even(activation: Rule, linear: Node, width: int) -> bool:
    """Whether each of an activation's results is made of a column, or of a pair of columns."""
    parts = max(activation.parts.values(), default=1)
    return parts <= _MOST_PARTS and linear.types[0].width == parts * width


def _with_product(activation: Rule) -> Rule:
    """An activation and the product before it as one fusion."""
    operands = tuple(operand.name for operand in DISPATCHED_LINEAR.operands)
    settings = {name: AttributeVar(name) for name in activation.attributes}
    product = Step(DISPATCHED_LINEAR, tuple(map(OperandRef, operands)), {}, activation.operands)
    return Rule(
        name=f"dispatched_{activation.name}",
        operands=operands,
        weights=(),
        attributes=activation.attributes,
        steps=(product, Step(activation.op, (StepRef(0),), settings, activation.output_names)),
        outputs=(StepRef(1),),
        output_names=activation.output_names,
        span=activation.span,
        text="",
    )


def _activation(graph: Graph, linear: Node, nodes: list[Node], result: Value) -> Rule:
    """What some nodes compute of a product: the fusion that they are, or one made of them."""
    rule = rule_of(nodes[0])
    if rule is not None and len(nodes) == 1:
        return rule
    name = nodes[0].op.name if len(nodes) == 1 else "activation"
    outline = Outline(graph, nodes, "y", lambda _: "h", operands={linear.outputs[0]: "h"})
    return outline.rule(name, graph.node(result).written)
