"""Contenders are timed in turn, within bounds, whatever the clock says."""

from __future__ import annotations

import pytest

from archc.benchmarking.timing import (
    LEAST_ROUNDS,
    MOST_ROUNDS,
    WARM_UP,
    ClockTimer,
    summary,
    time_in_turn,
)
from tests.benchmarking.clocks import Refusing, Ticking


class Sleeper:
    """A run that takes `seconds` of a clock, and writes its name down."""

    def __init__(self, name: str, seconds: float, clock: Ticking, log: list[str]):
        self.name, self.seconds, self.clock, self.log = name, seconds, clock, log

    def __call__(self) -> None:
        self.clock.now += self.seconds
        self.log.append(self.name)


def test_contenders_take_turns_and_the_first_changes() -> None:
    clock, log = Ticking(0.0), []
    runs = {name: Sleeper(name, 0.1, clock, log) for name in "ab"}
    time_in_turn(runs, ClockTimer(clock), 0.0, clock)
    assert log[: 2 * (WARM_UP + 1)] == ["a"] * (WARM_UP + 1) + ["b"] * (WARM_UP + 1)
    assert log[2 * (WARM_UP + 1) :] == ["a", "b", "b", "a", "a", "b"]


def test_times_are_those_of_one_call() -> None:
    clock, log = Ticking(0.0), []
    runs = {"slow": Sleeper("slow", 0.5, clock, log), "fast": Sleeper("fast", 1e-5, clock, log)}
    times = time_in_turn(runs, ClockTimer(clock), 20.0, clock)
    assert times["slow"].median == pytest.approx(0.5)
    assert times["fast"].median == pytest.approx(1e-5)
    assert LEAST_ROUNDS < times["slow"].count <= MOST_ROUNDS
    assert log.count("fast") > 50 * log.count("slow")  # short calls are taken together


@pytest.mark.parametrize("most", [10, 50, 200])
def test_a_bound_of_calls_holds(most: int) -> None:
    clock, log = Ticking(0.0), []
    time_in_turn({"a": Sleeper("a", 1e-5, clock, log)}, ClockTimer(clock), 1e9, clock, most)
    assert WARM_UP + 1 + LEAST_ROUNDS <= len(log) <= most


def test_what_cannot_be_launched_as_one_is_called_one_by_one() -> None:
    clock, log = Ticking(0.0), []
    run = Sleeper("a", 0.01, clock, log)
    times = time_in_turn({"a": run}, Refusing(clock), 0.0, clock, together=True)
    assert times["a"].median == pytest.approx(0.01)


def test_summary_is_median_and_distance_of_quartiles() -> None:
    times = summary([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (times.median, times.spread, times.count) == (3.0, 2.0, 5)
    assert summary([2.0]).spread == 0.0
