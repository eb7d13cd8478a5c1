"""What keeps documents that share a row from staying in it: only some ops look at other tokens."""

from __future__ import annotations

from collections.abc import Callable

from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.op import Trait
from archc.ir.ops.balance import AVERAGE
from archc.ir.ops.front import IN_FRONT
from archc.ir.ops.recurrence import CARRIED
from archc.ir.ops.structure import (
    APPEND,
    BRANCH,
    CONSTANT,
    EXPERTS,
    INPUT,
    LOOP,
    LOSSES,
    NOTED,
    OF_ITERATION,
    WEIGHT,
)
from archc.ir.ops.training import DROP, DROP_CROWDED
from archc.ir.program import Sequence, sequences
from archc.ir.types import ROWS, TensorType

_STRUCTURE = (APPEND, BRANCH, CONSTANT, EXPERTS, INPUT, LOOP, LOSSES, NOTED, OF_ITERATION, WEIGHT)
_OF_SEQUENCES = (DROP, DROP_CROWDED, IN_FRONT)  # by token as far as a cache is concerned


def unpacked_by(root: Graph, is_apart: Callable[[Graph, Node], bool]) -> Node | None:
    """The first node for which a model cannot compute documents as they lie in a row; None where it can.

    All nodes are then of each token by itself, or means over all tokens, or take documents apart, and every
    value has a row for each token or none of any.  What is carried from token to token is there with a cache
    alone.  Structure comes last: what it hands on was made by another node.
    """
    sequence = sequences(root)[-1]
    found = [
        node
        for graph in root.walk_all()
        for node in graph.nodes()
        if node.op is not CARRIED
        if not (is_apart(graph, node) or _is_by_token(node))
        or not all(_fits(type_, sequence) for type_ in node.types)
    ]
    return min(found, key=lambda node: node.op in _STRUCTURE, default=None)


def _is_by_token(node: Node) -> bool:
    """Whether tokens do not look at each other, but for means over all tokens of a batch."""
    if node.op is AVERAGE:
        return bool(node.attributes["over"] == "batch")
    if node.op in _STRUCTURE:
        return True
    return node.op not in _OF_SEQUENCES and node.op.has(Trait.PER_TOKEN)


def _fits(type_: TensorType, sequence: Sequence) -> bool:
    """Whether a value has a row for each token, or none of any; experts take rows from all tokens."""
    batch, tokens = sequence.dims
    named = tuple(dim for dim in type_.shape if isinstance(dim, str))
    by_token = named in ((batch, tokens), (batch, "S")) and type_.shape[:2] == named
    return by_token or not named or (named == (ROWS,) and type_.shape[0] == ROWS)
