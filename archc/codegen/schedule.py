"""Which class each layer of a loop is, as the shortest expression that says so."""

from __future__ import annotations

from collections.abc import Sequence


def choose(names: Sequence[str], schedule: Sequence[int], indices: Sequence[int], variable: str) -> str:
    """An expression over the loop variable for the name that each index has."""
    if len(set(schedule)) == 1:
        return names[schedule[0]]
    if len(set(schedule)) == 2:
        condition = _threshold(schedule, indices, variable) or _period(schedule, indices, variable)
        if condition:
            chosen, test = condition
            (other,) = set(schedule) - {chosen}
            return f"({names[chosen]} if {test} else {names[other]})"
    place = f"{variable} - {indices[0]}" if indices[0] else variable
    period = _repeated(schedule)
    if period < len(schedule):
        place = f"({place}) % {period}" if indices[0] else f"{place} % {period}"
    table = ", ".join(names[number] for number in schedule[:period])
    return f"({table})[{place}]"


def _threshold(schedule: Sequence[int], indices: Sequence[int], variable: str) -> tuple[int, str] | None:
    """`i < 3`: one kind first, then the other."""
    change = next(place for place, number in enumerate(schedule) if number != schedule[0])
    if len(set(schedule[change:])) == 1:
        return schedule[0], f"{variable} < {indices[change]}"
    return None


def _period(schedule: Sequence[int], indices: Sequence[int], variable: str) -> tuple[int, str] | None:
    """`i % 4 == 3`: one kind once in every period."""
    for rare in sorted(set(schedule), key=schedule.count):
        places = [indices[place] for place, number in enumerate(schedule) if number == rare]
        if len(places) < 2:
            continue
        period = places[1] - places[0]
        expected = [index for index in indices if index % period == places[0] % period]
        if period > 1 and places == expected:
            return rare, f"{variable} % {period} == {places[0] % period}"
    return None


def _repeated(schedule: Sequence[int]) -> int:
    """How many kinds come again and again in the same order: all, where none do."""
    return next(
        period
        for period in range(1, len(schedule) + 1)
        if all(number == schedule[place % period] for place, number in enumerate(schedule))
    )


def describe(schedule: Sequence[int], number: int, indices: Sequence[int]) -> str:
    """Which layers run a body, in words: `layers 0, 1, 2, ... of 32`."""
    places = [index for index, chosen in zip(indices, schedule, strict=True) if chosen == number]
    if len(places) == len(schedule):
        return f"One of {len(places)} identical layers" if len(places) > 1 else "The layer"
    shown = ", ".join(map(str, places[:4])) + (", ..." if len(places) > 4 else "")
    return f"Layer{'s' if len(places) > 1 else ''} {shown} of {len(schedule)}"
