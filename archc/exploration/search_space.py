"""The shapes that `archc search` looks at: width, heads and MLP of one arch, at one number of parameters.

Parameters are counted on graphs.  At a given width they are affine in heads, key and value heads, and d_ff:
four graphs tell the counts of all shapes of a width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from archc.analysis.laws.law import Range
from archc.analysis.parameters import Parameters, count_parameters
from archc.errors import ArchcError
from archc.exploration.variants import Original
from archc.ir.program import Program

VARIED = ("d", "heads", "kv_heads", "head_dim", "d_ff")
ATTENTION, MLP = "attention", "mlp"


@dataclass(frozen=True)
class Base(Original):
    """The dense model that a search of shapes starts from."""

    def __post_init__(self) -> None:
        known = self.program.parameters
        if missing := [name for name in VARIED if name not in known]:
            raise ArchcError(
                f"what varies is {', '.join(VARIED)}: the arch {self.program.arch} has no parameter "
                f"`{missing[0]}` beside {', '.join(known)}"
            )
        roles = self.counts(self.shape).by_role
        if "experts" in roles or not {ATTENTION, MLP} <= set(roles):
            raise ArchcError(
                f"the conditional law is of models with attention and dense MLPs; {self.program.name} has "
                f"{', '.join(sorted(roles))}"
            )

    @property
    def shape(self) -> Shape:
        return Shape(*(int(self.program.parameters[name]) for name in VARIED))

    def lowered(self, shape: Shape) -> Program:
        """The model in another shape; raises `SpecError`."""
        return self.changed(shape.settings())

    def counts(self, shape: Shape) -> Parameters:
        return count_parameters(self.lowered(shape).graph)


@dataclass(frozen=True)
class Shape:
    """The sizes of a dense layer: width, heads and their size, feed-forward width."""

    d: int
    heads: int
    kv_heads: int
    head_dim: int
    d_ff: int

    def settings(self) -> dict[str, str]:
        return {name: str(getattr(self, name)) for name in VARIED}


@dataclass(frozen=True)
class Candidate:
    """A shape, its N, and what the conditional law reads of it.

    parameters: without the vocabulary's tables
    read:       parameters that a step of decoding reads: N and the head
    x:          d / sqrt(N)
    r:          MLP / attention parameters
    """

    shape: Shape
    parameters: float
    read: float
    x: float
    r: float


@dataclass(frozen=True)
class Grid:
    """Which shapes are looked at.

    parameters: N without the vocabulary's tables
    tolerance:  of N, since d_ff comes in steps
    groups:     query heads that share one key and value head, at most: the law does not see them
    """

    parameters: float
    width_step: int
    groups: int
    tolerance: float = 0.01
    widths: tuple[float, float] = (0.5, 2.0)  # of the base's
    d_ff_step: int = 128


def candidates(base: Base, grid: Grid, ratios: Range) -> Iterator[Candidate]:
    """All shapes of the grid whose N is that asked for and whose r is in a range."""
    first, last = (base.shape.d * factor for factor in grid.widths)
    for d in range(math.ceil(first / grid.width_step) * grid.width_step, int(last) + 1, grid.width_step):
        plane = _Plane(base, d)
        for group in range(1, grid.groups + 1):
            kv_heads = 1
            while (d_ff := plane.d_ff_for(grid.parameters, kv_heads * group, kv_heads)) > 0:
                step = grid.d_ff_step
                found = plane.candidate(kv_heads * group, kv_heads, max(1, round(d_ff / step)) * step)
                close = abs(found.parameters / grid.parameters - 1) <= grid.tolerance
                if close and found.r in ratios:
                    yield found
                kv_heads += 1


class _Plane:
    """Counts of one width as affine functions of (heads, kv_heads, d_ff)."""

    def __init__(self, base: Base, d: int):
        self._d, self._head_dim, self._start = d, base.shape.head_dim, (2, 1, d)
        points = (self._start, (4, 1, d), (2, 2, d), (2, 1, 2 * d))
        self._values = [_quantities(base.counts(self._shape(*point))) for point in points]

    def _shape(self, heads: int, kv_heads: int, d_ff: int) -> Shape:
        return Shape(self._d, heads, kv_heads, self._head_dim, d_ff)

    def _at(self, quantity: int, heads: float, kv_heads: float, d_ff: float) -> float:
        origin, by_heads, by_kv, by_d_ff = (values[quantity] for values in self._values)
        return (
            origin
            + (by_heads - origin) * (heads - 2) / 2
            + (by_kv - origin) * (kv_heads - 1)
            + (by_d_ff - origin) * (d_ff - self._d) / self._d
        )

    def d_ff_for(self, parameters: float, heads: int, kv_heads: int) -> float:
        at_d, at_2d = (self._at(0, heads, kv_heads, factor * self._d) for factor in (1, 2))
        return self._d * (1 + (parameters - at_d) / (at_2d - at_d))

    def candidate(self, heads: int, kv_heads: int, d_ff: int) -> Candidate:
        n, read, attention, mlp = (self._at(quantity, heads, kv_heads, d_ff) for quantity in range(4))
        return Candidate(
            self._shape(heads, kv_heads, d_ff), n, read, x=self._d / math.sqrt(n), r=mlp / attention
        )


def _quantities(counts: Parameters) -> tuple[int, int, int, int]:
    """N, what decoding reads, and the two roles of r."""
    head = counts.head or counts.embedding
    roles = counts.by_role
    return counts.non_embedding, counts.non_embedding + head, roles[ATTENTION], roles[MLP]


def candidate_of(base: Base, shape: Shape) -> Candidate:
    """A shape counted on its own graph; raises `SpecError`."""
    n, read, attention, mlp = _quantities(base.counts(shape))
    return Candidate(shape, n, read, x=shape.d / math.sqrt(n), r=mlp / attention)
