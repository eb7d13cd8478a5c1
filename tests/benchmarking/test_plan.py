"""A run fits its budget by leaving out what matters least, and says so."""

from __future__ import annotations

from archc.benchmarking.plan import NO_TIME, Priority, SkippedError, Task, run_tasks
from archc.benchmarking.results import Findings, Skip
from tests.benchmarking.clocks import Ticking


def task(name: str, priority: Priority, estimate: float, clock: Ticking, log: list[str]) -> Task:
    """A task that takes as long as it was expected to."""

    def run(_turn: int) -> Findings:
        clock.now += estimate
        log.append(name)
        return Findings()

    return Task(name, "peer", (priority, 0), estimate, run)


def test_tasks_run_by_priority_within_the_budget() -> None:
    clock, log = Ticking(0.0), []
    tasks = [
        task("kernel", Priority.KERNEL_DECODE, 5, clock, log),
        task("prefill", Priority.PREFILL, 5, clock, log),
        task("training", Priority.TRAINING, 50, clock, log),
        task("decode", Priority.DECODE_ONE, 5, clock, log),
        task("compiled", Priority.COMPILED_MODEL, 6, clock, log),
    ]
    findings = run_tasks(tasks, 20, clock)
    assert log == ["decode", "prefill", "kernel"]
    assert findings.skipped == [
        Skip("training", "peer", NO_TIME, 50),
        Skip("compiled", "peer", NO_TIME, 6),
    ]
    assert clock.now <= 20


def test_a_task_that_cannot_be_done_says_why() -> None:
    def run(_turn: int) -> Findings:
        raise SkippedError("there is no GPU")

    findings = run_tasks([Task("case", "peer", (Priority.PREFILL, 0), 1, run)], 10, Ticking(0.0))
    assert findings.skipped == [Skip("case", "peer", "there is no GPU")]


def test_turns_are_numbered() -> None:
    turns: list[int] = []

    def run(turn: int) -> Findings:
        turns.append(turn)
        return Findings()

    run_tasks([Task("a", "b", (Priority.PREFILL, n), 1, run) for n in range(3)], 10, Ticking(0.0))
    assert turns == [0, 1, 2]
