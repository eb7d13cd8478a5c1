"""What templates may see of heads that are rotated, normed or copied."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.masks import load_where, store_where


@dataclass(frozen=True)
class Source:
    """Heads that a kernel reads: `offset` into a token's values."""

    name: str
    source: str
    source_width: int
    offset: int
    heads: int
    block: int
    mask: str  # which pairs there are, or "" for all
    lane_mask: str  # the same for values of pairs side by side

    @property
    def offset_term(self) -> str:
        return f"{self.offset} + " if self.offset else ""


@dataclass(frozen=True)
class Lane:
    """Values of each head that a kernel has in one variable: the pairs' first, their second, or the rest.

    place: where in a head they lie, in the kernel
    block: how many the variable has room for
    mask:  which of them there are, or "" for all, as in `present`, for which heads are looked at too
    """

    name: str
    place: str
    block: int
    mask: str
    present: str


@dataclass(frozen=True)
class Heads(Source):
    """Heads that are rotated, normed, both, or only copied.

    Many heads are several groups of one result, `out`, `first` being the first of a group.  The last `rest`
    values of each are not rotated: `rest_name` is the variable that counts them.
    """

    out: str
    first: int
    head_dim: int  # of values another one, where they are wider or narrower than keys
    width: int  # of all heads of the result together
    normed: bool
    weight: str  # the norm's weight, or ""
    rest: int
    rest_block: int
    rest_name: str
    lanes: tuple[Lane, ...]

    @property
    def count(self) -> str:
        """How many there are, in words."""
        return "1 head" if self.heads == 1 else f"{self.heads} heads"

    @property
    def place(self) -> str:
        """Where in a token's results they start, as a term before others."""
        return f"{self.first * self.head_dim} + " if self.first else ""

    @property
    def turned(self) -> bool:
        """Whether some of their values are rotated."""
        return self.rest < self.head_dim

    @property
    def rest_place(self) -> str:
        """Where in a head the rest lies."""
        return self.lanes[-1].place

    @property
    def rest_load(self) -> str:
        return load_where(self.lanes[-1].present)

    @property
    def rest_store(self) -> str:
        return store_where(self.lanes[-1].present)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(lane.name for lane in self.lanes)

    def each(self, text: str) -> str:
        """An expression for each lane, with its name in the place of {}."""
        return ", ".join(text.replace("{}", lane.name) for lane in self.lanes)
