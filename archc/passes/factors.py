"""Numbers that queries, keys or values are multiplied by move to where they cost nothing.

attention(a q, b k, c v, scale)     becomes     c attention(q, k, v, a b scale)

Heads may be taken apart, and rotated, on the way.  What attention's result is multiplied by moves after
the next linear map, where it is part of the sum or of the norm that follows.
"""

from __future__ import annotations

from dataclasses import replace

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS, Trait
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.structure import CONSTANT
from archc.ir.row_form import is_row_op
from archc.passes.context import Context, place_of, remaining
from archc.passes.report import Fired

ATTEND, MUL, ROTATE_BY = (OPS[name] for name in ("attend", "mul", "rotate_by"))


def move_factors(graph: Graph, context: Context) -> None:
    """Multiply attention's scores and what it is added to by the numbers of queries, keys and values."""
    if "row" not in context.target.families:
        return
    for part, times in graph.runs():
        for product in remaining(part, MUL):
            factor = factor_of(part, product)
            if factor is not None and _move(part, product, factor):
                fired = Fired("factors", place_of(product), times, ("reassociation",), product.span)
                context.report.fired.append(fired)


def factor_of(graph: Graph, product: Node) -> float | None:
    """The number that a product multiplies a tensor of its own type by; None where there is none."""
    makers = [graph.node(value) for value in product.operands]
    numbers = [float(maker.attributes["value"]) for maker in makers if maker.op is CONSTANT]
    if len(numbers) != 1 or graph.type(multiplied(graph, product)) != product.types[0]:
        return None
    return numbers[0]


def multiplied(graph: Graph, product: Node) -> Value:
    """The operand of a product that is no number."""
    return next(v for v in product.operands if graph.node(v).op is not CONSTANT)


def _move(graph: Graph, product: Node, factor: float) -> bool:
    """Move a product with a number to the attention that reads it; whether one does."""
    value = _after_views(graph, product.outputs[0])
    attend = graph.only_user(value)
    if attend is None or attend.op is not ATTEND:
        return False
    operand = ATTEND.operands[attend.inputs.index(value)].name
    if operand == "v":
        result = _before_rows(graph, attend.outputs[0])
        if result is None:
            return False
        maker = graph.node(result)
        multiply(graph, result, factor, replace(product, scope=maker.scope), maker.order)
    elif operand in ("q", "k") and factor > 0:
        graph.update(attend, attributes={**attend.attributes, "scale": attend.attributes["scale"] * factor})
    else:
        return False
    graph.replace_uses(product.outputs[0], multiplied(graph, product))
    graph.remove_unread([product])
    return True


def _after_views(graph: Graph, value: Value) -> Value:
    """A value as it is after heads have been split, merged or rotated, as long as one op reads it."""
    user = graph.only_user(value)
    if user is None:
        return value
    moves = user.op.has(Trait.VIEW) or user.op is ROTATE_BY
    follows = user.inputs[0] == value and len(user.outputs) == 1 and moves
    return _after_views(graph, user.outputs[0]) if follows else value


def _before_rows(graph: Graph, value: Value) -> Value | None:
    """Attention's result, or what a linear map makes of it, where ops on rows read it and nothing else."""
    value = _after_views(graph, value)
    users = [user for user, _ in graph.users(value)]
    if len(users) == 1 and users[0].op is LINEAR and "offset" not in users[0].named:
        if graph.is_output(value):
            return None
        (value,) = users[0].outputs
        users = [user for user, _ in graph.users(value)]
    alone = bool(users) and not graph.is_output(value)
    return value if alone and all(is_row_op(user.op) for user in users) else None


def multiply(graph: Graph, value: Value, factor: float, like: Node, order: tuple[int, ...]) -> None:
    """Let the readers of a value read its product with a number."""
    number = graph.add(CONSTANT, (), {"value": factor}, span=like.span, scope=like.scope, order=order)
    product = graph.add(MUL, [value, number.outputs[0]], span=like.span, scope=like.scope, order=(*order, 0))
    graph.replace_uses(value, product.outputs[0], but=[product.id])
