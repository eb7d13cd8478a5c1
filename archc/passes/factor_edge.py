"""The factor of what a layer adds to the residual stream moves, with the add, to the next layer's start.

for: x = x + f; h = norm(x);          becomes         x, f = x, 0
     ...; f = 0.2 * g                                 for: x = x + 0.2 * f; h = norm(x); ...; f = g
"""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS
from archc.ir.ops.structure import CONSTANT

MUL = OPS["mul"]


def rotate_factors(graph: Graph, loop: Node) -> bool:
    """Move the factor at the end of all bodies to where the next adds; False where they have none in common.

    Before the first layer it multiplies zeros.
    """
    factors = {_factor(body) for body in loop.bodies}
    if len(factors) != 1 or None in factors:
        return False
    (factor,) = factors
    assert factor is not None
    added = len(loop.attributes["entering"]) - 1
    for body in loop.bodies:
        name, scaled = body.outputs[-1]
        product, enters = body.node(scaled), body.inputs[added]
        body.outputs = [*body.outputs[:-1], (name, _multiplied(body, product))]
        _multiply(body, enters, factor, product, (-1,))
        body.remove_unread([product])
    left = loop.outputs[len(loop.attributes["carried"]) - 1]
    _multiply(graph, left, factor, loop, (*loop.order, 0))
    return True


def _factor(body: Graph) -> float | None:
    """The factor of a body's last output; None where that is no product with a number."""
    value = body.outputs[-1][1]
    product = body.node(value)
    alone = not body.users(value) and [other for _, other in body.outputs].count(value) == 1
    if product.op is not MUL or not alone:
        return None
    numbers = [body.node(each) for each in product.inputs if each is not None]
    found = [float(node.attributes["value"]) for node in numbers if node.op is CONSTANT]
    return found[0] if len(found) == 1 and body.type(_multiplied(body, product)) == product.types[0] else None


def _multiplied(body: Graph, product: Node) -> Value:
    """The operand of a product that is no number."""
    return next(
        value for value in product.inputs if value is not None and body.node(value).op is not CONSTANT
    )


def _multiply(graph: Graph, value: Value, factor: float, like: Node, order: tuple[int, ...]) -> None:
    """Let the readers of a value read its product with a number."""
    number = graph.add(CONSTANT, (), {"value": factor}, span=like.span, scope=like.scope, order=order)
    product = graph.add(MUL, [value, number.outputs[0]], span=like.span, scope=like.scope, order=(*order, 0))
    graph.replace_uses(value, product.outputs[0], but=[product.id])
