"""Cuts, beside those that networkx finds."""

from __future__ import annotations

import random

import networkx as nx
import pytest

from archc.ir.minimum_cut import minimum_cut

PLACES, GOALS = 14, 2


def _dataflow(seed: int) -> tuple[dict[int, list[int]], dict[int, int]]:
    """What each place is computed from, of those before it, and what it weighs; some of equal weight."""
    chance = random.Random(seed)
    sources = {
        place: chance.sample(range(place), min(place, chance.randint(0, 3))) for place in range(PLACES)
    }
    return sources, {place: chance.randint(1, 4) for place in range(PLACES)}


def _by_networkx(sources: dict[int, list[int]], weights: dict[int, int], goals: list[int]) -> set[int]:
    """The places whose edges lead to the side of the goal, which networkx makes as small as it can be."""
    flow = nx.DiGraph()
    flow.add_edges_from(((goal, "end"), "goal") for goal in goals)
    for place, before in sources.items():
        flow.add_edge((place, "start"), (place, "end"), capacity=weights[place])
        flow.add_edges_from(((each, "end"), (place, "start")) for each in before)
        if not before:
            flow.add_edge("start", (place, "start"))
    _, (left, right) = nx.minimum_cut(flow, "start", "goal")
    return {place for place in sources if (place, "start") in left and (place, "end") in right}


@pytest.mark.parametrize("seed", range(40))
def test_a_cut_is_the_lightest_and_of_equal_ones_the_nearest(seed: int) -> None:
    sources, weights = _dataflow(seed)
    goals = list(range(PLACES))[-GOALS:]
    kept = minimum_cut(goals, sources.__getitem__, weights.__getitem__)
    assert set(kept) == _by_networkx(sources, weights, goals)
    assert len(kept) == len(set(kept))
