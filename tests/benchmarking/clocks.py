"""Clocks that tests turn by hand: nothing here waits, and no result depends on the machine."""

from __future__ import annotations

from dataclasses import dataclass

from archc.benchmarking.timing import ClockTimer, Run


@dataclass
class Ticking:
    """A clock that goes on by `step` seconds whenever it is read."""

    step: float = 0.001
    now: float = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Refusing(ClockTimer):
    """A timer for which nothing can be launched as one, like a GPU whose capture fails."""

    def repeated(self, run: Run, calls: int) -> Run:
        raise RuntimeError(f"cannot capture {calls} calls of {run}")
