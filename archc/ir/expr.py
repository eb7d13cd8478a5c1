"""Elementwise formulas: small trees of elementwise ops over named values and numbers.

Derivatives are declared as formulas, so that everything that needs one is written from the same declaration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

# Ops that are written between their operands, in specs, Python, Triton and C++ alike.
INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


@dataclass(frozen=True)
class Expr:
    """An elementwise op applied to formulas, or a leaf (`op` is "leaf", `args` its name)."""

    op: str
    args: tuple[Expr | float | str, ...]

    def __add__(self, other: Formula) -> Expr:
        return Expr("add", (self, other))

    def __radd__(self, other: Formula) -> Expr:
        return Expr("add", (other, self))

    def __sub__(self, other: Formula) -> Expr:
        return Expr("sub", (self, other))

    def __rsub__(self, other: Formula) -> Expr:
        return Expr("sub", (other, self))

    def __mul__(self, other: Formula) -> Expr:
        return Expr("mul", (self, other))

    def __rmul__(self, other: Formula) -> Expr:
        return Expr("mul", (other, self))

    def __truediv__(self, other: Formula) -> Expr:
        return Expr("div", (self, other))

    def __rtruediv__(self, other: Formula) -> Expr:
        return Expr("div", (other, self))

    def __neg__(self) -> Expr:
        return Expr("neg", (self,))

    def __getattr__(self, op: str) -> Callable[..., Expr]:
        """`x.sigmoid()` applies the elementwise op of that name."""
        if op.startswith("_"):
            raise AttributeError(op)
        return lambda *others: Expr(op, (self, *others))


Formula: TypeAlias = Expr | float


def leaf(name: str) -> Expr:
    """A formula that is a value by its name."""
    return Expr("leaf", (name,))


def leaves(formula: Formula) -> set[str]:
    """The names of the values that a formula reads."""
    if not isinstance(formula, Expr):
        return set()
    if formula.op == "leaf":
        return {str(formula.args[0])}
    return set().union(*(leaves(arg) for arg in formula.args if not isinstance(arg, str)))
