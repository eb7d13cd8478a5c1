"""The factor of what a layer adds to the residual stream moves, with the add, to the next layer's start.

for: x = x + f; h = norm(x);          becomes         x, f = x, 0
     ...; f = 0.2 * g                                 for: x = x + 0.2 * f; h = norm(x); ...; f = g
"""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.passes.factors import MUL, factor_of, multiplied, multiply


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
        body.outputs = [*body.outputs[:-1], (name, multiplied(body, product))]
        multiply(body, enters, factor, product, (-1,))
        body.remove_unread([product])
    left = loop.outputs[len(loop.attributes["carried"]) - 1]
    multiply(graph, left, factor, loop, (*loop.order, 0))
    return True


def _factor(body: Graph) -> float | None:
    """The factor of a body's last output; None where that is no product with a number."""
    value = body.outputs[-1][1]
    product = body.node(value)
    alone = not body.users(value) and [other for _, other in body.outputs].count(value) == 1
    if product.op is not MUL or not alone:
        return None
    return factor_of(body, product)
