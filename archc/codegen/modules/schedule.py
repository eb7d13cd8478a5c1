"""Which class each layer of a loop is, as the shortest expression that says so."""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST = 80  # conditions that read well, and that stay on one line


def choose(names: Sequence[str], schedule: Sequence[int], indices: Sequence[int], variable: str) -> str:
    """An expression over the loop variable for the name that each index has."""
    if len(set(schedule)) == 1:
        return names[schedule[0]]
    conditions = f"({_conditions(names, schedule, indices, variable)})"
    table = _table(names, schedule, indices, variable)
    is_pattern = len(set(schedule)) == 2 and _pattern(schedule, indices, variable)
    is_short = len(conditions) <= min(_LONGEST, len(table))
    return conditions if is_pattern or is_short else table


def _conditions(names: Sequence[str], schedule: Sequence[int], indices: Sequence[int], variable: str) -> str:
    """`A if i < 1 else B if i % 6 == 5 else C`: each condition is one on what those before it leave."""
    if len(set(schedule)) == 1:
        return names[schedule[0]]
    chosen, test = _pattern(schedule, indices, variable) or _places(schedule, indices, variable)
    left = [place for place, number in enumerate(schedule) if number != chosen]
    rest = _conditions(
        names, [schedule[place] for place in left], [indices[place] for place in left], variable
    )
    return f"{names[chosen]} if {test} else {rest}"


def _table(names: Sequence[str], schedule: Sequence[int], indices: Sequence[int], variable: str) -> str:
    """`(A, B, C)[i % 3]`."""
    place = f"{variable} - {indices[0]}" if indices[0] else variable
    period = _repeated(schedule)
    if period < len(schedule):
        place = f"({place}) % {period}" if indices[0] else f"{place} % {period}"
    return f"({', '.join(names[number] for number in schedule[:period])})[{place}]"


def _pattern(schedule: Sequence[int], indices: Sequence[int], variable: str) -> tuple[int, str] | None:
    """One kind of several, and the test that it alone passes."""
    return _threshold(schedule, indices, variable) or _period(schedule, indices, variable)


def _threshold(schedule: Sequence[int], indices: Sequence[int], variable: str) -> tuple[int, str] | None:
    """`i < 3`: one kind first, then the others."""
    change = next(place for place, number in enumerate(schedule) if number != schedule[0])
    if schedule[0] not in schedule[change:]:
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


def _places(schedule: Sequence[int], indices: Sequence[int], variable: str) -> tuple[int, str]:
    """`i in (2, 3, 7)`: the rarest kind."""
    rare = min(sorted(set(schedule)), key=schedule.count)
    places = [index for index, number in zip(indices, schedule, strict=True) if number == rare]
    test = f"in ({', '.join(map(str, places))})" if len(places) > 1 else f"== {places[0]}"
    return rare, f"{variable} {test}"


def _repeated(schedule: Sequence[int]) -> int:
    """How many kinds come again and again in the same order: all, where none do."""
    return next(
        period
        for period in range(1, len(schedule) + 1)
        if all(number == schedule[place % period] for place, number in enumerate(schedule))
    )


def describe(schedule: Sequence[int], number: int, indices: Sequence[int]) -> str:
    """Which layers run a body, in words: `Layers 0 to 4, 6 to 10, ... of 26`."""
    places = [index for index, chosen in zip(indices, schedule, strict=True) if chosen == number]
    if len(places) == len(schedule):
        return f"One of {len(places)} identical layers" if len(places) > 1 else "The layer"
    runs = _runs(places)
    shown = ", ".join(runs[:4]) + (", ..." if len(runs) > 4 else "")
    return f"Layer{'s' if len(places) > 1 else ''} {shown} of {len(schedule)}"


def _runs(places: Sequence[int]) -> list[str]:
    """Places in words, three or more in a row as `4 to 8`."""
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return [text for run in runs for text in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))]
