"""Experts' rows are gathered and weighted where they are used: by the linears and sums that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS, Trait
from archc.ir.ops.experts import (
    AT_CHOICE,
    COMBINE,
    DISPATCH,
    DISPATCHED_LINEAR,
    GROUPED_LINEAR,
    WEIGHTED_COMBINE,
)
from archc.ir.ops.structure import CONSTANT
from archc.passes.context import Context, place_of, remaining
from archc.passes.report import Fired

ADD, CAST_LIKE, MUL = OPS["add"], OPS["cast_like"], OPS["mul"]


def join_row_moves(graph: Graph, context: Context) -> None:
    """Let grouped linears gather their rows, and sums over choices weigh them, where the target can."""
    if "experts" not in context.target.families:
        return
    for part, times in graph.runs():
        for node in remaining(part, COMBINE):
            _join_combine(part, node, times, context)
        for node in remaining(part, WEIGHTED_COMBINE):
            _join_after(part, node, times, context)
        for node in remaining(part, COMBINE, WEIGHTED_COMBINE):
            _join_beside(part, node, times, context)
        for node in remaining(part, DISPATCH):
            _join_dispatch(part, node, times, context)


def _join_dispatch(graph: Graph, dispatch: Node, times: int, context: Context) -> None:
    """Where nothing but grouped linears reads the rows, they need not be written down.

    Nor need their products with what choices have: (f x) W^T is f (x W^T), of which float32 is rounded once.
    """
    products = [user for user, _ in graph.users(dispatch.outputs[0]) if user.op is not GROUPED_LINEAR]
    factors = [(product, _factors(graph, product, dispatch)) for product in products]
    if any(each is None for _, each in factors):
        return
    for product, each in factors:
        _join_linears(graph, product, dispatch, each, times, context)
    _join_linears(graph, dispatch, dispatch, None, times, context)
    graph.remove_unread([dispatch, *products])


def _join_linears(
    graph: Graph, rows: Node, dispatch: Node, factors: Value | None, times: int, context: Context
) -> None:
    """Let grouped linears gather the rows of tokens that they read, or read products of with factors."""
    relaxations = () if factors is None else ("fewer_roundings",)
    for linear, _ in graph.users(rows.outputs[0]):
        if linear.op is not GROUPED_LINEAR:
            continue
        inputs = [*dispatch.inputs, *linear.inputs[1:], factors]
        joined = graph.add_like(linear, DISPATCHED_LINEAR, inputs, names=linear.names)
        graph.replace_uses(linear.outputs[0], joined.outputs[0])
        graph.remove(linear)
        _report("dispatched_linear", joined, times, context, *relaxations)


def _factors(graph: Graph, product: Node, dispatch: Node) -> Value | None:
    """What rows of tokens are multiplied by for each choice, where grouped linears alone read the product."""
    (rows,) = dispatch.outputs
    taken = [graph.node(value) for value in product.operands if value != rows]
    readers = {user.op for user, _ in graph.users(product.outputs[0])}
    if (
        product.op is not MUL
        or len(taken) != 1
        or taken[0].op is not AT_CHOICE
        or readers != {GROUPED_LINEAR}
    ):
        return None
    factors = taken[0].inputs[0]
    return factors if _is_one_number(graph, taken[0]) and product.types[0] == graph.type(rows) else None


def _is_one_number(graph: Graph, taken: Node) -> bool:
    """Whether it is a number that each choice has, not a vector."""
    return len(graph.type(taken.first).shape) == 3


def _join_combine(graph: Graph, combine: Node, times: int, context: Context) -> None:
    """sum(weights * y) without the products: they are added up in float32, and rounded once."""
    rows = graph.node(combine.first)
    casts = [rows] if rows.op is CAST_LIKE else []
    product = graph.node(rows.first) if casts else rows
    if product.op is not MUL or any(len(graph.users(each.outputs[0])) > 1 for each in (product, *casts)):
        return
    for weights, y in (product.operands, product.operands[::-1]):
        taken = graph.node(weights)
        is_weight = taken.op is AT_CHOICE and _is_one_number(graph, taken)
        alike = graph.type(y) == rows.types[0] if casts else len(graph.type(y).shape) == 2
        if is_weight and alike:
            inputs = [y, taken.inputs[0], *combine.inputs[1:]]
            settings = {"narrow": bool(casts)}
            joined = graph.add_like(combine, WEIGHTED_COMBINE, inputs, settings, names=combine.names)
            graph.replace_uses(combine.outputs[0], joined.outputs[0])
            graph.remove_unread([product, *casts, combine])
            _report("weighted_combine", joined, times, context, "fewer_roundings")
            return


def _join_after(graph: Graph, combine: Node, times: int, context: Context) -> None:
    """A product of weighted sums with a number, or their rounding, is part of the sums."""
    joined: Node | None = combine
    while joined is not None:
        combine, user = joined, graph.only_user(joined.outputs[0])
        if user is None:
            return
        joined = _scaled(graph, combine, user)
        if joined is not None:
            _report("weighted_combine", joined, times, context, "reassociation")
        joined = joined or _rounded(graph, combine, user)


def _scaled(graph: Graph, combine: Node, product: Node) -> Node | None:
    """The sums by weights times the number that they were multiplied by."""
    numbers = [value for value in product.operands if graph.node(value).op is CONSTANT]
    if product.op is not MUL or len(numbers) != 1:
        return None
    weights = combine.named["weights"]
    scaled = graph.add_like(combine, MUL, [weights, numbers[0]])
    inputs = [scaled.outputs[0] if value == weights else value for value in combine.inputs]
    return _replace(graph, combine, product, inputs, combine.attributes)


def _rounded(graph: Graph, combine: Node, cast: Node) -> Node | None:
    """The sums in the dtype of what they sum, where they are rounded to it."""
    if cast.op is not CAST_LIKE or cast.inputs[0] not in combine.outputs:
        return None
    if graph.type(combine.named["y"]).dtype is not cast.types[0].dtype:
        return None
    return _replace(graph, combine, cast, combine.inputs, {"narrow": True})


def _replace(
    graph: Graph, combine: Node, last: Node, inputs: Sequence[Value | None], attributes: Mapping[str, Any]
) -> Node:
    """Put a sum in the place of one and of what was done to it."""
    joined = graph.add_like(last, combine.op, inputs, attributes, names=last.names)
    graph.replace_uses(last.outputs[0], joined.outputs[0])
    graph.remove_unread([combine, last])
    return joined


def _join_beside(graph: Graph, combine: Node, times: int, context: Context) -> None:
    """What is added to the sums before another sum or a norm, as a shared expert is, joins them."""
    last = graph.only_user(combine.outputs[0])
    cast = last if last is not None and last.op is CAST_LIKE and last.inputs[0] in combine.outputs else None
    total = last if cast is None else graph.only_user(cast.outputs[0])
    if total is None or total.op is not ADD or (onward := graph.only_user(total.outputs[0])) is None:
        return
    sums = (cast or combine).outputs[0]
    (beside,) = [value for value in total.inputs if value != sums] or [None]
    ends = onward.op is ADD or onward.op.has(Trait.NORM)
    if not ends or beside is None or graph.type(beside) != graph.type(sums):
        return
    inputs = [*combine.inputs[:-1], beside]
    joined = graph.add_like(total, combine.op, inputs, combine.attributes, names=total.names)
    graph.replace_uses(total.outputs[0], joined.outputs[0])
    graph.remove_unread([combine, *([cast] if cast is not None else []), total])
    _report(combine.op.name, joined, times, context, "fewer_roundings")


def _report(name: str, node: Node, times: int, context: Context, *relaxations: str) -> None:
    context.report.fired.append(Fired(name, place_of(node), times, relaxations, node.span))
