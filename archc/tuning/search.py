"""The search for the fastest tile of each linear map, within a time budget.

How tiles are timed is given: a search needs no GPU of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from archc.tuned import Entry, Problem, Provenance, Tile

LIBRARY = None  # the contender that is PyTorch's own linear map, or the two kernels that one stands for
FINALISTS = 3
_FIRST_SHARE = 0.6  # of a problem's time, to time all of its tiles

Contender = Tile | None
# Seconds of a call by each contender that could run, given about how many seconds timing them may take.
Measure = Callable[[Problem, Sequence[Contender], float], Mapping[Contender, float]]


@dataclass(frozen=True)
class Found:
    """What a search found for a problem; no entry where the budget was spent, or no tile could run."""

    problem: Problem
    entry: Entry | None
    reason: str = ""


def tiles(problem: Problem) -> list[Tile]:
    """The tiles worth trying, the likeliest first; none is much larger than the weight."""
    found = _row_tiles() if problem.rows == 1 else _tile_tiles()
    width = 1 << (problem.inputs - 1).bit_length()
    height = max(1 << (problem.outputs - 1).bit_length(), 16)
    kept = [tile for tile in found if tile.inputs <= width and tile.outputs <= height]
    return kept or found[:1]


def _row_tiles() -> list[Tile]:
    """Rows of the weight in pieces, of which a thread has 8 to 64 values: 16 bytes a load, at least."""
    return [
        Tile(outputs, inputs, warps, 1)
        for inputs in (1024, 512, 2048)
        for outputs in (4, 8, 2, 16, 1)
        for warps in (4, 8)
        if 8 * 32 * warps <= outputs * inputs <= 64 * 32 * warps
    ]


def _tile_tiles() -> list[Tile]:
    """Tiles for the tensor cores, a warp to 8 outputs or more, several loads of them under way."""
    return [
        Tile(outputs, inputs, warps, stages)
        for outputs in (32, 64, 16)
        for inputs in (128, 256, 64)
        for warps in (4, 8)
        for stages in (4, 3)
        if outputs >= 4 * warps and outputs * inputs * stages <= 1 << 16
    ]


def after_tiles(columns: int) -> list[Tile]:
    """The same for one row in the kernel of an op before it, which has so many columns at a time."""
    return [
        Tile(outputs, columns, warps, 1)
        for outputs in (2, 4, 1, 8)
        for warps in (4, 8, 2, 16, 1)
        if 8 * 32 * warps <= outputs * columns <= 64 * 32 * warps
    ] or [Tile(1, columns, 1, 1)]


def search(
    problems: Mapping[Problem, Sequence[Tile]],
    measure: Measure,
    provenance: Provenance,
    budget: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Found]:
    """The fastest of each problem's tiles beside the library, in about `budget` seconds.

    Each problem may take an equal share of what is left; what a problem does not use goes to those after it.
    """
    end = clock() + budget
    for number, (problem, tried) in enumerate(problems.items()):
        share = (end - clock()) / (len(problems) - number)
        if share <= 0:
            yield Found(problem, None, "no time was left")
            continue
        yield _search_one(problem, tried, measure, provenance, share)


def _search_one(
    problem: Problem, tried: Sequence[Tile], measure: Measure, provenance: Provenance, seconds: float
) -> Found:
    """All tiles once, then the best of them and the library against each other."""
    first = measure(problem, tried, _FIRST_SHARE * seconds)
    ranked = sorted((time_, number, tile) for number, (tile, time_) in enumerate(first.items()))
    if not ranked:
        return Found(problem, None, "no tile could run")
    finalists = [tile for _, _, tile in ranked[:FINALISTS]]
    last = measure(problem, [LIBRARY, *finalists], (1 - _FIRST_SHARE) * seconds)
    best = min((tile for tile in finalists if tile in last), key=lambda tile: last[tile], default=None)
    if best is None or LIBRARY not in last:
        return Found(problem, None, "the finalists could not be timed")
    entry = Entry(problem, best, _microseconds(last[best]), _microseconds(last[LIBRARY]), provenance)
    return Found(problem, entry)


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 2)
