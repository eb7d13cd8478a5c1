"""The lightest set of places that separates what is given from what is wanted, by networkx."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

import networkx as nx

P = TypeVar("P", bound=Hashable)

_START, _END, _GOAL = "start", "end", "goal"  # of the flow, and of each place in it


def minimum_cut(
    goals: Iterable[P], sources: Callable[[P], Iterable[P]], weight: Callable[[P], int]
) -> list[P]:
    """The lightest places from which all goals can be computed; of equal ones those nearest to the goals.

    sources: the places that one is computed from, none where it must be kept itself
    """
    flow = nx.DiGraph()  # a place is an edge of its weight, from its start to its end
    waiting = list(goals)
    flow.add_edges_from(((place, _END), _GOAL) for place in waiting)
    while waiting:
        place = waiting.pop()
        if flow.has_edge((place, _START), (place, _END)):
            continue
        flow.add_edge((place, _START), (place, _END), capacity=weight(place))
        before = list(sources(place))
        flow.add_edges_from(((each, _END), (place, _START)) for each in before)
        if not before:
            flow.add_edge(_START, (place, _START))
        waiting += before
    _, (left, right) = nx.minimum_cut(flow, _START, _GOAL)  # of equal ones, that nearest to its end
    places = dict.fromkeys(node[0] for node in flow if node not in (_START, _GOAL))
    return [place for place in places if (place, _START) in left and (place, _END) in right]
