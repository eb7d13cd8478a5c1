"""What the template of running maxima may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.by_document import by_document
from archc.codegen.kernels.fused import power_of_two

_VALUES = 1024  # of a program at once: so many columns of so many tokens
_MOST_TOKENS = 128
_MOST_COLUMNS = 32  # of a program that goes through many tokens: 128 adjacent bytes
_OF_STEP = 128  # columns of a program for one token
_THREADS = 32  # of a warp


@dataclass(frozen=True)
class RunningMaximumKernel:
    """The largest so far of numbers that each token has, in decline.

    width:   numbers of a token
    fixed:   whether what they decline by is the same for all tokens
    first:   what each begins as; None where it is the first token's number
    carries: whether it may be given what the last call left
    plain:   the call of the reference function
    """

    name: str
    width: int
    fixed: bool
    first: float | None
    carries: bool
    plain: str
    template: str = "running_maximum"

    @property
    def by_document(self) -> list[str]:
        """What its function does with documents that share rows."""
        given = ["x", "span.new_positions", "log_decay", *(["None"] if self.carries else [])]
        return by_document(self.name, given, ["x"] if self.fixed else ["x", "log_decay"], "documents")

    @property
    def columns(self) -> int:
        """Numbers of a program that goes through many tokens."""
        return min(power_of_two(self.width), _MOST_COLUMNS)

    @property
    def tokens(self) -> int:
        """Tokens that it has at once."""
        return min(_VALUES // self.columns, _MOST_TOKENS)

    @property
    def warps(self) -> int:
        return min(4, max(1, self.columns * self.tokens // (4 * _THREADS)))

    @property
    def step_columns(self) -> int:
        """Numbers of a program for one token."""
        return min(power_of_two(self.width), _OF_STEP)

    @property
    def step_warps(self) -> int:
        return max(1, self.step_columns // _THREADS)

    @property
    def fills_blocks(self) -> bool:
        """Whether no program has columns beyond the last."""
        return self.width % self.columns == self.width % self.step_columns == 0
