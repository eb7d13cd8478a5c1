"""The context that numbers are given for where nothing else is said."""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.program import most_tokens

_USUAL = 4096


def usual_context(root: Graph) -> int:
    """4,096 tokens, or what the model takes."""
    return min(_USUAL, most_tokens(root) or _USUAL)
