"""The norm of what a layer adds moves, with the add, to the norm at the next layer's start.

for: x = x + f; h = norm(x);          becomes         x, f, w = x, 0, 0
     ...; f = norm(g) by weight                       for: x = x + norm(f) by w; h = norm(x);
                                                           ...; f, w = g, weight
"""

from __future__ import annotations

from collections.abc import Sequence

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.structure import WEIGHT, ZEROS
from archc.passes.carried import carry_also, free_name


def norms_before(loop: Node) -> list[Node]:
    """In every body, the norm of what the next one adds first; none where they do not move.

    They must be alike, and like the norm that reads the sum.  Before the first layer they norm zeros.
    """
    added = len(loop.attributes["entering"]) - 1
    norms = [body.node(body.outputs[-1][1]) for body in loop.bodies]
    if not norms:
        return []
    first = norms[0]
    for body, norm in zip(loop.bodies, norms, strict=True):
        alone = not body.users(norm.outputs[0]) and [v for _, v in body.outputs].count(norm.outputs[0]) == 1
        ((total, _),) = body.users(body.inputs[added])
        readers = [user for user, _ in body.users(total.outputs[0]) if user.op.has(Trait.NORM)]
        same = all(_norms_alike(first, each) for each in (norm, *readers))
        if not (norm.op.has(Trait.NORM) and alone and same and _brings_weights(body, norm)):
            return []
    return norms if first.attributes["eps"] > 0 else []


def _norms_alike(one: Node, other: Node) -> bool:
    there = [[value is not None for value in node.inputs] for node in (one, other)]
    return one.op is other.op and one.attributes == other.attributes and there[0] == there[1]


def _brings_weights(body: Graph, norm: Node) -> bool:
    return all(value is None or body.node(value).op is WEIGHT for value in norm.inputs[1:])


def rotate_norms(graph: Graph, loop: Node, norms: list[Node]) -> None:
    """Move the norms that end a loop's bodies to where the next body adds what they norm."""
    entering, carried = loop.attributes["entering"], loop.attributes["carried"]
    first, addend = norms[0], entering[-1]
    operands = zip(first.op.operands[1:], first.inputs[1:], strict=True)
    names = [free_name(f"{addend}_{operand.name}", loop) for operand, value in operands if value is not None]
    for body, norm in zip(loop.bodies, norms, strict=True):
        _rotate_norm(body, norm, len(entering), names)
    start = loop.inputs[len(entering) - 1]
    assert start is not None
    rows = graph.node(start)  # zeros, of the shape of what enters
    zeros = [graph.add_like(rows, ZEROS, rows.inputs, {"row": True}, names=(name,)) for name in names]
    loop = carry_also(graph, loop, names, [node.outputs[0] for node in zeros])
    added = loop.outputs[len(carried) - 1]
    given = _norm_operands(first, added, loop.outputs[len(carried) :])
    norm = graph.add(first.op, given, first.attributes, span=first.span, order=(*loop.order, 0))
    graph.replace_uses(added, norm.outputs[0], but=[norm.id])


def _rotate_norm(body: Graph, norm: Node, entering: int, names: list[str]) -> None:
    """Let a body norm the addend that enters it, by weights that enter too, and leave its own as it is."""
    before = body.inputs[entering - 1]
    weights = [value for value in norm.inputs[1:] if value is not None]
    inputs = [body.add_input(name, body.type(value)) for name, value in zip(names, weights, strict=True)]
    body.inputs[entering:] = [*inputs, *body.inputs[entering : -len(inputs) or None]]
    moved = body.add(
        norm.op,
        _norm_operands(norm, before, inputs),
        norm.attributes,
        span=norm.span,
        scope=norm.scope,
        order=(-1,),
    )
    body.replace_uses(before, moved.outputs[0], but=[moved.id])
    source = norm.inputs[0]
    assert source is not None
    name = body.outputs[-1][0]
    body.outputs = [*body.outputs[:-1], (name, source), *zip(names, weights, strict=True)]
    body.remove(norm)


def _norm_operands(norm: Node, x: Value, weights: Sequence[Value]) -> list[Value | None]:
    """A norm's operands with another `x` and other weights."""
    given = iter(weights)
    return [x, *(None if value is None else next(given) for value in norm.inputs[1:])]
