"""The residual add at a layer's end moves to the norm at the next layer's start.

for: h = norm(x); ...; x = x + f                      x, f = x, 0
                                      becomes         for: x = x + f; h = norm(x); ...
                                                      x = x + f
"""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS, Trait
from archc.ir.ops.structure import ZEROS
from archc.passes.carried import carry_also, free_name
from archc.passes.context import Context, place_of
from archc.passes.factor_edge import rotate_factors
from archc.passes.norm_edge import norms_before, rotate_norms

ADD = OPS["add"]


def rotate_loops(graph: Graph, context: Context) -> None:
    """Move the add that ends every body of a loop to the body's start, where a norm reads the sum."""
    if "norm" not in context.target.families:
        return
    for part in graph.walk():
        for loop in part.loops():
            for name, type_ in zip(loop.attributes["carried"], loop.types, strict=True):
                if type_.shape[1:2] != ("S",):  # no sums, but what is kept of earlier tokens
                    _rotate_while_possible(part, loop.id, name, context)


def _rotate_while_possible(graph: Graph, loop_id: int, name: str, context: Context) -> None:
    rotated = 0
    reason = _obstacle(graph.node(loop_id), name)
    while not reason and rotated < 2:  # a parallel block ends in two adds
        _rotate(graph, graph.node(loop_id), name)
        rotated += 1
        reason = _obstacle(graph.node(loop_id), name)
    norms = norms_before(graph.node(loop_id)) if rotated == 1 else []
    if norms:
        rotate_norms(graph, graph.node(loop_id), norms)
    factors = rotated == 1 and not norms and _has_rows(context) and rotate_factors(graph, graph.node(loop_id))
    before = "the norm before it," if norms else "the number before it," if factors else ""
    moved = f"the add at a layer's end, and {before}" if before else "the add at a layer's end"
    outcome = f"{moved} moved to the next layer's start" if rotated else reason
    context.report.remark("loop_edge", f"`{name}` ({place_of(graph.node(loop_id))}): {outcome}")


def _has_rows(context: Context) -> bool:
    """Whether the target's norms take in what is multiplied before they are reached."""
    return "row" in context.target.families


def _obstacle(loop: Node, name: str) -> str:
    entering = loop.attributes["entering"]
    if name not in entering:
        return "it does not enter the loop"
    for body in loop.bodies:
        enters = body.inputs[entering.index(name)]
        leaves = dict(body.outputs)[name]
        last = body.node(leaves)
        if last.op is not ADD or last.types[0] != body.type(enters):
            return "a layer does not end in an add"
        if any(value is not None and body.type(value) != last.types[0] for value in last.inputs):
            return "what a layer adds is not of the sum's shape"
        if len(body.users(leaves)) > 0 or [value for _, value in body.outputs].count(leaves) > 1:
            return "the sum at a layer's end is read in that layer too"
        if not _feeds_norm(body, enters):
            return "no norm reads the sum at a layer's start"
    return ""


def _feeds_norm(body: Graph, value: Value) -> bool:
    """Whether a norm reads a value, or its sum with what an earlier rotation brought in."""
    users = [user for user, _ in body.users(value)]
    if any(user.op.has(Trait.NORM) for user in users):
        return True
    return len(users) == 1 and users[0].op is ADD and _feeds_norm(body, users[0].outputs[0])


def _rotate(graph: Graph, loop: Node, name: str) -> None:
    entering, carried = loop.attributes["entering"], loop.attributes["carried"]
    addend = free_name(f"{name}_delta", loop)
    place = entering.index(name)
    for body in loop.bodies:
        _rotate_body(body, place, len(entering), name, addend)
    start = loop.inputs[place]
    assert start is not None
    before = (*loop.order[:-1], loop.order[-1] - 1, 0)
    zeros = graph.add(ZEROS, [start], {"row": False}, names=(addend,), span=loop.span, order=before)
    old = loop.outputs[carried.index(name)]
    loop = carry_also(graph, loop, [addend], zeros.outputs)
    total = graph.add(ADD, [old, loop.outputs[-1]], names=(name,), span=loop.span, order=(*loop.order, 1))
    graph.replace_uses(old, total.outputs[0], but=[total.id])


def _rotate_body(body: Graph, place: int, entering: int, name: str, addend: str) -> None:
    enters = body.inputs[place]
    last = body.node(dict(body.outputs)[name])
    residual, delta = _stream_first(body, last, enters)
    enters_delta = body.add_input(addend, body.type(enters), last.span)
    body.inputs.insert(entering, body.inputs.pop())
    total = body.add(
        ADD, [enters, enters_delta], names=(name,), span=last.span, scope=last.scope, order=(-1, place)
    )
    # The sum stands for the stream from here on; where the last add read the stream itself, it reads the sum.
    body.replace_uses(enters, total.outputs[0], but=[total.id])
    swapped = {enters: total.outputs[0]}
    outputs = [(n, swapped.get(residual, residual) if n == name else v) for n, v in body.outputs]
    body.outputs = [*outputs, (addend, swapped.get(delta, delta))]
    body.remove(last)


def _stream_first(body: Graph, add: Node, enters: Value) -> tuple[Value, Value]:
    """The add's operands: the residual stream and what is added to it."""
    x, y = add.inputs
    assert x is not None
    assert y is not None
    if _is_stream(body, x, enters) or not _is_stream(body, y, enters):
        return x, y
    return y, x


def _is_stream(body: Graph, value: Value, enters: Value) -> bool:
    if value == enters:
        return True
    node = body.node(value)
    return node.op is ADD and any(v is not None and _is_stream(body, v, enters) for v in node.inputs)
