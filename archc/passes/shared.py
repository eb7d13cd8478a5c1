"""What every token goes through beside its experts becomes one more expert, where it is like them.

Its weights are stacked with theirs, it comes after those that a token has chosen, and its weight is 1, or
what the spec multiplies it by.  The experts' products compute it too, so it has no launches of its own.  What
is several times as wide as an expert becomes as many of them: its result is the sum of theirs.  The
checkpoint's tensors stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from archc.ir.graph import Graph
from archc.ir.node import Node, Value, stored_in
from archc.ir.op import OPS
from archc.ir.ops.experts import WITH_ONES, WITH_SHARED
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.router import UNLESS_ZERO
from archc.ir.ops.shape import CONCAT
from archc.ir.ops.structure import EXPERTS
from archc.ir.paths import Index, Shared, Stored
from archc.passes.context import Context, made_by, place_of, remaining
from archc.passes.dispatch import dispatch_obstacle
from archc.passes.factors import factor_of, multiplied
from archc.passes.likeness import Likeness
from archc.passes.report import Fired

ADD, CAST_LIKE, MUL, TOP_K = (OPS[name] for name in ("add", "cast_like", "mul", "top_k"))


def join_shared_experts(graph: Graph, context: Context) -> None:
    """Let what every token goes through beside its experts be one more of them, where it is like them."""
    if not {"experts", "router"} <= context.target.families:
        return
    for part, times in graph.runs():
        for node in remaining(part, EXPERTS):
            total = _total(part, node)
            if total is not None:
                _join(part, node, total, times, context)
    context.report.sort()


@dataclass(frozen=True)
class Total:
    """The sum of what experts give and of what stands beside them.

    scale:  the number that the experts' sum is multiplied by on the way to it
    routed: the experts' part of it
    beside: the other part, without its factor `gate` if there is one
    """

    node: Node
    scale: Node | None
    routed: Value
    beside: Value
    gate: Value | None


def _total(graph: Graph, node: Node) -> Total | None:
    """The sum with what a linear map gives; None where there is none, as where the stream itself is added."""
    (value,), scale = node.outputs, None
    while (user := graph.only_user(value)) is not None and user.op is not ADD:
        if user.op is MUL and scale is None and factor_of(graph, user) is not None:
            scale = user
        elif user.op is not CAST_LIKE or user.inputs[0] != value:
            return None
        (value,) = user.outputs
    others = [other for other in user.operands if other != value] if user else []
    if user is None or len(others) != 1:
        return None
    (beside,) = others
    if made_by(graph, beside, LINEAR):
        return Total(user, scale, value, beside, None)
    product = made_by(graph, beside, MUL)
    for gate, rows in (product.operands, product.operands[::-1]) if product is not None else ():
        if made_by(graph, rows, LINEAR):
            return Total(user, scale, value, rows, gate) if graph.type(gate).width == 1 else None
    return None


def _join(graph: Graph, node: Node, total: Total, times: int, context: Context) -> None:
    likeness = Likeness(graph, node)
    reason = _obstacle(graph, node, total, likeness)
    if reason:
        text = f"what stands beside experts ({place_of(total.node)}) is not one of them: {reason}"
        context.report.remark("shared", text)
        return
    _stack_weights(node, likeness)
    _add_choice(graph, node, total, likeness)
    old = graph.computing([value for value in total.node.operands if value != total.routed])
    graph.replace_uses(total.node.outputs[0], total.routed)
    if total.scale is not None:
        graph.replace_uses(total.scale.outputs[0], multiplied(graph, total.scale))
    graph.remove_unread([*([total.scale] if total.scale else []), *old, total.node])
    relaxations = ("fewer_roundings",) if total.scale is None else ("fewer_roundings", "reassociation")
    fired = Fired("shared_expert", place_of(total.node), times, relaxations, total.node.span)
    context.report.fired.append(fired)


def _obstacle(graph: Graph, node: Node, total: Total, likeness: Likeness) -> str:
    """Why what stands beside experts cannot be one of them, or nothing."""
    if all(made_by(graph, node.inputs[0], op) is None for op in (TOP_K, UNLESS_ZERO)):
        return "experts are not chosen by their scores alone"
    if obstacle := dispatch_obstacle(node):
        return f"they run one by one, as {obstacle}"
    if not likeness.holds(total.beside):
        return likeness.reason or "it computes something else than they do"
    if graph.type(total.routed) != graph.type(total.beside):
        return "it is of another dtype than their sum"
    if len(likeness.factors) > 1 or ((total.gate or total.scale) and not likeness.factors):
        return "choices have no weight, or several"
    weights = [graph.type(value) for value in _weights_of_choices(likeness)]
    if total.gate and any(graph.type(total.gate).dtype is not type_.dtype for type_ in weights):
        return "its factor is of another dtype than the weights of choices"
    return ""


def _weights_of_choices(likeness: Likeness) -> list[Value]:
    """The number that each choice is multiplied by, if there is one."""
    return [value for factor in likeness.factors if (value := likeness.given[factor]) is not None]


def _stack_weights(node: Node, likeness: Likeness) -> None:
    """Let the body's weights have the tensors of one more expert, or of several."""
    variable, first = node.attributes["variable"], node.attributes["count"]
    for inner in likeness.weights:
        weight = likeness.body.node(inner)
        shared = Shared(variable, first, likeness.count, _planes(likeness, inner, Index(variable, 1, -first)))
        likeness.body.update(weight, attributes={**weight.attributes, "shared": shared})


def _planes(likeness: Likeness, inner: Value, plane: Index) -> tuple[Stored, ...]:
    """The tensors of a weight, of which experts have a plane each where they are several."""
    sources = stored_in(likeness.graph.node(likeness.weights[inner]))
    if likeness.count == 1:
        return sources
    return tuple(
        replace(
            stored,
            shape=own.held_shape[::-1] if stored.transposed else own.held_shape,
            planes=likeness.count,
            plane=plane,
            joined=1 - likeness.split[inner] if stored.transposed else likeness.split[inner],
        )
        for stored, own in zip(sources, stored_in(likeness.body.node(inner)), strict=True)
    )


def _add_choice(graph: Graph, node: Node, total: Total, likeness: Likeness) -> None:
    """Let each token choose what was beside its experts, by a weight of 1 or by what it was multiplied by."""
    first, count, chosen = node.attributes["count"], likeness.count, node.inputs[0]
    more = graph.add_like(node, WITH_SHARED, [chosen], {"first": first, "count": count}, names=("chosen",))
    exchanged = {chosen: more.outputs[0]}
    for weights in _weights_of_choices(likeness):
        scaled = _scaled(graph, node, weights, total.scale)
        if total.gate is None:
            more = graph.add_like(node, WITH_ONES, [scaled], {"count": count}, names=("weights",))
        else:
            more = graph.add_like(node, CONCAT, [scaled, *[total.gate] * count], names=("weights",))
        exchanged[weights] = more.outputs[0]
    inputs = tuple(exchanged.get(value, value) for value in node.inputs)
    graph.update(node, inputs=inputs, attributes={**node.attributes, "count": first + count})


def _scaled(graph: Graph, node: Node, weights: Value, scale: Node | None) -> Value:
    """The weights of choices times what their sum was multiplied by."""
    if scale is None:
        return weights
    rows = multiplied(graph, scale)
    inputs = [weights if value == rows else value for value in scale.inputs]
    return graph.add_like(node, MUL, inputs).outputs[0]
