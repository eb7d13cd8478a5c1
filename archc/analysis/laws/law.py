"""What a scaling law is: a loss for a size and an amount of data, and what both mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from archc.quantities import quantity_text


class Count(Enum):
    """Which parameters a law's N counts."""

    TOTAL = "all parameters"
    NON_EMBEDDING = "parameters without the vocabulary's tables"
    ACTIVE = "parameters that one token uses"
    DENSE = "parameters of the dense model that the experts were added to"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Range:
    """What a law was fitted on, both ends included."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def factor_outside(self, value: float) -> float:
        """How many times a value is beyond the nearer end; 1 inside."""
        return max(1.0, value / self.high, self.low / value)


@dataclass(frozen=True)
class Law(ABC):
    """Loss in nats a token, of the paper's own data and tokenizer.

    name:   what a command calls it
    source: the paper, and where in it the coefficients stand
    counts: which N it means
    sizes:  the N of the runs it was fitted on
    tokens: their D; None where the paper does not say, or D does not enter
    caveat: what one must know before using it
    """

    name: str
    source: str
    counts: Count
    sizes: Range
    tokens: Range | None = None
    caveat: str = ""

    @abstractmethod
    def loss(self, parameters: float, tokens: float) -> float:
        """The loss of a model of N parameters after D tokens, each seen once."""

    def warnings(self, parameters: float, tokens: float | None) -> Iterator[str]:
        """What makes an answer of this law less than its fit; without tokens, what N does."""
        for what, value, fitted in (("N", parameters, self.sizes), ("D", tokens, self.tokens)):
            if value is not None and fitted is not None and value not in fitted:
                ends = f"{quantity_text(fitted.low)} to {quantity_text(fitted.high)}"
                factor = fitted.factor_outside(value)
                times = (
                    f"{factor:,.0f} times outside of" if factor >= 100 else f"{factor:.3g} times outside of"
                )
                yield f"{what} = {quantity_text(value)} is {times} the fit's {ends}: extrapolated"
