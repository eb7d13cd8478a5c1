"""`archc search`: shapes of a model that lose little and answer fast.

The loss is the conditional law's; the rate is the roofline's, or was measured.  Only shapes that could lie on
the front are compiled: from the least loss on, one whose best conceivable rate is below a rate seen before is
beaten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from archc import compiler
from archc.analysis.cache import cache_size
from archc.analysis.kernels import Shape as Tokens
from archc.analysis.kernels import kernels
from archc.analysis.laws.conditional import Conditional
from archc.analysis.parameters import roles_by_path
from archc.analysis.pareto import front
from archc.analysis.serving import Workload, best_rate, serving_rate
from archc.errors import ArchcError
from archc.exploration.search_space import Base, Candidate, Grid, Shape, candidate_of, candidates
from archc.exploration.variants import Original
from archc.ir.program import Program


@dataclass(frozen=True)
class Point:
    """A candidate with its loss, over that of the best shape, and its rate in tokens of answers a second."""

    candidate: Candidate
    multiplier: float
    rate: float


@dataclass(frozen=True)
class Search:
    """What a search found.

    base:       the model that it started from; its multiplier is NaN where the law does not hold for it
    considered: how many shapes there are
    points:     those whose rate was found, the front among them
    front:      the least loss first
    """

    base: Point
    considered: int
    points: tuple[Point, ...]
    front: tuple[Point, ...]


def search(base: Base, law: Conditional, grid: Grid, load: Workload) -> Search:
    """The front of the roofline's rates; raises `ArchcError` where the grid has no shape."""
    found = list(candidates(base, grid, law.ratios))
    if not found:
        raise ArchcError(
            f"no shape of {grid.parameters:,.0f} parameters without tables has a ratio of MLP to attention "
            "parameters that the law was fitted on"
        )
    bound = _Bound(base, load)
    points = _unbeaten(found, law, lambda each: _rate(base, each.shape, load), bound.rate)
    return _search(_measured(base, law, candidate_of(base, base.shape), load), len(found), points)


def search_measured(
    base: Base, law: Conditional, rates: Sequence[tuple[Shape, float]], load: Workload
) -> Search:
    """The front of shapes whose rates were measured; raises `ArchcError` where the law holds for none."""
    points = []
    for shape, rate in rates:
        each = candidate_of(base, shape)
        points.append(Point(each, law.multiplier(each.x, each.r), rate))
    start = next((point for point in points if point.candidate.shape == base.shape), None)
    return _search(start or _measured(base, law, candidate_of(base, base.shape), load), len(points), points)


def _search(base: Point, considered: int, points: Sequence[Point]) -> Search:
    best = front(points, cost=lambda p: p.multiplier, gain=lambda p: p.rate)
    return Search(base, considered, tuple(points), tuple(best))


def _unbeaten(
    found: Iterable[Candidate],
    law: Conditional,
    rate: Callable[[Candidate], float],
    bound: Callable[[Candidate], float],
) -> list[Point]:
    """Points of the candidates that their bound does not rule out."""
    points: list[Point] = []
    fastest = 0.0
    rated = [(law.multiplier(each.x, each.r), each) for each in found]
    for multiplier, each in sorted(rated, key=lambda pair: (pair[0], -bound(pair[1]))):
        if bound(each) > fastest:
            points.append(Point(each, multiplier, rate(each)))
            fastest = max(fastest, points[-1].rate)
    return points


def _measured(base: Base, law: Conditional, candidate: Candidate, load: Workload) -> Point:
    try:
        multiplier = law.multiplier(candidate.x, candidate.r)
    except ArchcError:
        multiplier = math.nan
    return Point(candidate, multiplier, _rate(base, candidate.shape, load))


def _rate(base: Base, shape: Shape, load: Workload) -> float:
    return rate_of(base.lowered(shape), base, load)


def rate_of(program: Program, original: Original, load: Workload) -> float:
    """Tokens of answers a second, by the roofline of a compiled variant of a model."""
    compilation = compiler.compile_program(program, original.spec.rules)
    return serving_rate(compilation.reference, compilation.fused, load)


class _Bound:
    """The best conceivable rate of a candidate, from counts alone."""

    def __init__(self, base: Base, load: Workload):
        self._load = load
        compilations = [
            compiler.compile_program(base.lowered(shape), base.spec.rules)
            for shape in (Shape(64, 2, kv, base.shape.head_dim, 64) for kv in (1, 2))
        ]
        one, two = (
            cache_size(each.reference, load.batch, load.context, load.element).bytes for each in compilations
        )
        self._cache, self._per_head = 2 * one - two, two - one
        roles = roles_by_path(compilations[0].reference)
        step = kernels(compilations[0].fused, Tokens(load.batch, 1, load.context, 1), load.element, roles)
        self._launches = sum(kernel.times for kernel in step)

    def rate(self, candidate: Candidate) -> float:
        cache = self._cache + self._per_head * candidate.shape.kv_heads
        weights = candidate.read * self._load.element
        return best_rate(weights, cache, self._launches, 2 * candidate.parameters, self._load)
