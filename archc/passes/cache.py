"""Which values of earlier tokens decoding keeps: an `append` for every operand that reads the past."""

from __future__ import annotations

from archc.ir.graph import Graph, Node, Value
from archc.ir.op import Trait
from archc.ir.ops.structure import APPEND
from archc.ir.program import vocabulary_of
from archc.passes.context import Context, place_of


def plan_cache(graph: Graph, context: Context) -> None:
    """Put `append` before the keys and values of every attention, where decoding is possible at all."""
    obstacle = _obstacle(graph)
    if obstacle:
        context.report.remark("cache", f"no cached decoding: {obstacle}")
        return
    for part in graph.walk():
        slots: set[str] = set()
        for node in part.nodes():
            for operand in node.op.past:
                _append(part, part.node(node.id), operand, slots)


def _obstacle(graph: Graph) -> str:
    """Why a token cannot be computed from the past alone, or need not be, or nothing."""
    if not vocabulary_of(graph):
        return "what the model returns is not logits over its tokens"
    for part in graph.walk():
        for node in part.nodes():
            mask = node.attributes.get("mask")
            if mask is not None and not mask.causal:
                return f"`{mask}` lets tokens see later ones ({place_of(node)})"
            if not (node.op.internal or node.op.past or node.op.has(Trait.PER_TOKEN)):
                return f"`{node.op.name}` looks at other tokens and declares no state ({place_of(node)})"
    return ""


def _append(graph: Graph, node: Node, operand: str, slots: set[str]) -> None:
    """Let one operand of a node be the values of all tokens so far."""
    value = node.operand(operand)
    assert value is not None
    kept = next((user for user, _ in graph.users(value) if user.op is APPEND), None)
    if kept is None:
        kept = _new_append(graph, node, operand, value, _unique_slot(operand, slots))
    place = [each.name for each in node.op.operands].index(operand)
    inputs = list(node.inputs)
    inputs[place] = kept.outputs[0]
    graph.update(node, inputs=tuple(inputs))


def _new_append(graph: Graph, node: Node, operand: str, value: Value, slot: str) -> Node:
    return graph.add(
        APPEND,
        [value],
        {"slot": slot},
        names=(graph.name_of(value) or operand,),
        span=node.span,
        scope=node.scope,
        order=(*node.order[:-1], node.order[-1] - 1, node.op.past.index(operand)),
        path=node.scope.path if node.scope else (),
    )


def _unique_slot(operand: str, slots: set[str]) -> str:
    """A name for what is kept, unlike the others of the same layer; it joins them."""
    slot, count = operand, 2
    while slot in slots:
        slot, count = f"{operand}_{count}", count + 1
    slots.add(slot)
    return slot
