"""Queries of attention that see no key: the first token's, where they stand before all keys."""

from __future__ import annotations

import math
from collections.abc import Iterator

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS
from archc.ir.ops.structure import CONSTANT
from archc.ir.program import POSITIONS, Places, positions_in

ATTEND, ADD, SUB, MAXIMUM = OPS["attend"], OPS["add"], OPS["sub"], OPS["maximum"]


def blind_attentions(root: Graph) -> Iterator[Node]:
    """Attention whose mask hides every key from the first token, as its positions are made."""
    own = positions_in(root)
    for graph in root.walk():
        for node in graph.nodes():
            hides = node.op is ATTEND and node.attributes["mask"].causal
            if hides and _at_first_token(graph, node.named[POSITIONS], own) < 0:
                yield node


def _at_first_token(graph: Graph, value: Value, own: Places) -> float:
    """A position of a sequence's first token, 0 being its own; infinity where that is not known."""
    if (id(graph), value) in own:
        return 0
    node = graph.node(value)
    if node.op is CONSTANT:
        return float(node.attributes["value"])
    if node.op not in (ADD, SUB, MAXIMUM):
        return math.inf
    x, y = (math.inf if each is None else _at_first_token(graph, each, own) for each in node.inputs)
    if node.op is SUB:
        return x - y if y < math.inf else math.inf
    return max(x, y) if node.op is MAXIMUM else x + y
