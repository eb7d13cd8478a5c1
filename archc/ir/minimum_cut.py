"""The lightest set of places that separates what is given from what is wanted."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import TypeAlias, TypeVar

P = TypeVar("P", bound=Hashable)
End: TypeAlias = Hashable  # of an edge

_START, _END, _GOAL = "start", "end", "goal"  # of the flow, and of each place in it


def minimum_cut(
    goals: Iterable[P], sources: Callable[[P], Iterable[P]], weight: Callable[[P], int]
) -> list[P]:
    """The lightest places from which all goals can be computed; of equal ones those nearest to the goals.

    sources: the places that one is computed from, none where it must be kept itself
    """
    flow = _Flow()  # a place is an edge of its weight, from its start to its end
    waiting = list(goals)
    places: dict[P, None] = {}
    for place in waiting:
        flow.add((place, _END), _GOAL, math.inf)
    while waiting:
        place = waiting.pop()
        if place in places:
            continue
        places[place] = None
        flow.add((place, _START), (place, _END), weight(place))
        before = list(sources(place))
        for each in before:
            flow.add((each, _END), (place, _START), math.inf)
        if not before:
            flow.add(_START, (place, _START), math.inf)
        waiting += before
    flow.fill(_START, _GOAL)
    right = flow.reaching(_GOAL)
    return [place for place in places if (place, _START) not in right and (place, _END) in right]


class _Flow:
    """The largest flow along edges that have capacities, by shortest paths (Edmonds and Karp 1972)."""

    def __init__(self) -> None:
        self._room: dict[End, dict[End, float]] = {}  # what may yet flow from one end to another, or back

    def add(self, start: End, end: End, capacity: float) -> None:
        self._room.setdefault(start, {})[end] = capacity
        self._room.setdefault(end, {}).setdefault(start, 0)

    def fill(self, start: End, goal: End) -> None:
        """Let flow as much as can."""
        while path := self._path(start, goal):
            flow = min(self._room[one][other] for one, other in path)
            for one, other in path:
                self._room[one][other] -= flow
                self._room[other][one] += flow

    def _path(self, start: End, goal: End) -> list[tuple[End, End]]:
        """The edges of a shortest path that has room; none where nothing more can flow."""
        before: dict[End, End] = {start: start}
        waiting = deque([start])
        while waiting and goal not in before:
            one = waiting.popleft()
            for other, room in self._room.get(one, {}).items():
                if room and other not in before:
                    before[other] = one
                    waiting.append(other)
        path = []
        while goal != start and goal in before:
            path.append((before[goal], goal))
            goal = before[goal]
        return path

    def reaching(self, goal: End) -> set[End]:
        """The ends from which something more could flow to the goal, itself among them."""
        found = {goal}
        waiting = [goal]
        while waiting:
            other = waiting.pop()
            more = {one for one in self._room.get(other, {}) if self._room[one][other]} - found
            found |= more
            waiting += more
        return found
