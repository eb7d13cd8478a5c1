"""What an expert has of its own, and how rows read it once those of all experts are computed together.

A vector of each expert is then one of each row, [N, d].  Where rows have dims of their own, such as heads
[N, heads, d], it needs as many between: [N, 1, d].
"""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.ops.linear import EMBEDDING, LINEAR
from archc.ir.ops.structure import INPUT
from archc.ir.types import ROWS
from archc.passes.context import place_of


def own_values(body: Graph, weights: set[Value]) -> set[Value]:
    """The weights of the expert, and what is computed without its rows of these."""
    own = set(weights)
    for node in body.nodes():
        if own.intersection(node.operands) and not any(_has_rows(body, value) for value in node.operands):
            own.update(node.outputs)
    return own


def dims_between(body: Graph, node: Node, value: Value) -> int:
    """How many dims the op needs before the first of a value of the expert's own, to read one of each row."""
    rows = [len(body.type(other).shape) - 1 for other in node.operands if _has_rows(body, other)]
    ranks = rows or [len(body.type(other).shape) for other in node.operands]
    return max(ranks) - len(body.type(value).shape)


def obstacle_of(body: Graph, weights: set[Value]) -> str:
    """Why something of the body cannot be computed for the rows of all experts at once, or nothing."""
    own = own_values(body, weights)
    for node in body.nodes():
        if node.op is LINEAR and node.inputs[1] in weights:
            obstacle = _obstacle_of_linear(body, node)
        else:
            is_read = node.op is EMBEDDING or _reads_vectors(body, node, own)
            obstacle = "" if is_read else f"`{node.op.name}` reads more than a vector of each expert"
        if obstacle:
            return f"{obstacle} ({place_of(node)})"
    return ""


def _obstacle_of_linear(body: Graph, node: Node) -> str:
    """Why a product with a weight of the expert is none of a grouped linear, or nothing."""
    x, weight, *_ = node.operands
    if node.attributes["layout"] != "out_in":
        tied = body.node(weight).op is INPUT
        return f"a weight {'of several experts is stored as [in, out]' if tied else 'is read in two ways'}"
    if node.attributes["wide"]:
        return "its product is in float32"
    if not _has_rows(body, x) or len(body.type(x).shape) != 2:
        return "`linear` reads more than a vector of each token"
    return ""


def _reads_vectors(body: Graph, node: Node, own: set[Value]) -> bool:
    """Whether all that an op reads of the expert's own is vectors, or has the dims of its rows."""
    for value in own.intersection(node.operands):
        between = dims_between(body, node, value)
        if between < 0 or (between and len(body.type(value).shape) > 1):
            return False
    return True


def _has_rows(body: Graph, value: Value) -> bool:
    return body.type(value).shape[:1] == (ROWS,)
