"""How long a context a model can take."""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.program import POSITIONS

_USUAL = 4096


def longest_context(root: Graph) -> int | None:
    """The rows of its shortest table of learned positions; None where it has none, and any length will do."""
    found: list[int] = []
    for given in root.inputs:
        if root.node(given).attributes["name"] == POSITIONS:
            for user, _ in root.users(given):
                table = user.operand("weight") if user.op.name == "embedding" else None
                rows = root.type(table).shape[0] if table is not None else None
                found += [rows] if isinstance(rows, int) else []
    return min(found, default=None)


def usual_context(root: Graph) -> int:
    """The context that numbers are given for where nothing else is said: 4,096, or what the model takes."""
    return min(_USUAL, longest_context(root) or _USUAL)
