"""What the template of products of experts with an activation after them may see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DispatchedKernel:
    """A linear of dispatched tokens and the activation after it.

    activation:  the function that computes the activation by itself, and its gradient
    product:     what it is computed of, a name of the activation's
    parts:       its columns, or gate and up, of which it is made
    interleaved: whether gate and up take turns in the product's columns
    output:      its result, `width` wide
    lines:       the activation, of the parts in float32
    """

    name: str
    equation: tuple[str, ...]
    layout: str
    activation: str
    product: str
    parts: tuple[str, ...]
    interleaved: bool
    output: str
    width: int
    lines: tuple[str, ...]
    template: str = "dispatched"

    @property
    def outputs(self) -> int:
        """The product's width."""
        return len(self.parts) * self.width

    @property
    def sums(self) -> str:
        """The product where a program has it."""
        return self.product if len(self.parts) > 1 else self.parts[0]

    @property
    def tile(self) -> str:
        """What a program has."""
        text = "A tile of one expert's rows by COLUMNS of its results per program"
        return f"{text}, of {' and '.join(self.parts)} in turn." if len(self.parts) > 1 else f"{text}."
