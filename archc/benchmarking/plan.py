"""What to run first, and what to leave out, so that a run fits its budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

from archc.benchmarking.results import Findings, Skip
from archc.benchmarking.timing import Clock

NO_TIME = "no time is left of the budget"


class Priority(IntEnum):
    """The order in which tasks run.

    What a user feels comes first: whole models beside what is used by default, one sequence before many.
    Kernels explain it, then come further peers of models.  What has to be compiled by TorchDynamo comes last,
    since it takes longest for the fewest numbers.
    """

    DECODE_ONE = 0
    PREFILL = 1
    TRAINING = 2
    DECODE_MANY = 3
    KERNEL_PREFILL = 4
    KERNEL_TRAINING = 5
    KERNEL_DECODE = 6
    FURTHER_PEER = 7
    COMPILED_MODEL = 8
    COMPILED_KERNEL = 9


class SkippedError(Exception):
    """A task that cannot be done; its text says why."""


@dataclass(frozen=True)
class Task:
    """A case, timed for us and for a peer in turn.

    priority: the case's, and among tasks of equal ones a number
    estimate: seconds that it is expected to take, everything included
    run:      takes the number of the turn; raises `SkippedError` where it cannot be done
    """

    case: str
    peer: str
    priority: tuple[Priority, int]
    estimate: float
    run: Callable[[int], Findings]


def run_tasks(
    tasks: Iterable[Task], budget: float, clock: Clock, tell: Callable[[Task], None] = lambda _task: None
) -> Findings:
    """Run tasks by their priority, each that is expected to end within `budget` seconds from now."""
    start = clock()
    findings = Findings()
    for turn, task in enumerate(sorted(tasks, key=lambda task: task.priority)):
        left = budget - (clock() - start)
        if task.estimate > left:
            findings.skipped.append(Skip(task.case, task.peer, NO_TIME, task.estimate))
            continue
        tell(task)
        try:
            findings.extend(task.run(turn))
        except SkippedError as skipped:
            findings.skipped.append(Skip(task.case, task.peer, str(skipped)))
    return findings
