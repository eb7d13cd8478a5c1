"""What the operands of a `scan` are.

Its body takes the states [B, T, ...] that the step before left, then what it reads of outside, and gives its
result and the states after it.  In both graphs a value of the tokens is [B, T, ...]; a step has T = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.ir.node import Node, Value
from archc.ir.types import Dim, TensorType


@dataclass(frozen=True)
class ScanForm:
    """The operands of a scan.

    like:      a value of its tokens, whose batch and dtype cached states follow
    positions: those of the tokens, -1 for padding
    starts:    what the states are before the first token, without B and T
    states:    what a cache holds of them; None without one
    taken:     what the body reads of outside
    """

    like: Value
    positions: Value
    starts: tuple[Value, ...]
    states: tuple[Value | None, ...]
    taken: tuple[Value, ...]

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        return (self.like, self.positions, *self.starts, *self.states, *self.taken)


def scan_form(node: Node) -> ScanForm:
    """The operands of a scan, by what they are."""
    count = len(node.attributes["states"])
    like, positions = node.operands[:2]
    rest = node.inputs[2:]
    starts, states, taken = (
        _present(rest[:count]),
        tuple(rest[count : 2 * count]),
        _present(rest[2 * count :]),
    )
    return ScanForm(like, positions, starts, states, taken)


def is_of_token(type_: TensorType, tokens: Sequence[Dim]) -> bool:
    """Whether a step takes its token's part of a value, and not the whole."""
    return tuple(type_.shape[:2]) == tuple(tokens)


def _present(values: Sequence[Value | None]) -> tuple[Value, ...]:
    return tuple(value for value in values if value is not None)
