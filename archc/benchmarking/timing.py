"""How long calls take: warm-up first, contenders in turn, medians."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

Clock = Callable[[], float]  # seconds, from any start
Run = Callable[[], object]

WARM_UP = 2  # calls before any that count
LONG = 0.5  # seconds of a call for which one before it is enough
LEAST_ROUNDS = 3
MOST_ROUNDS = 100
_SAMPLE = 2e-3  # seconds that a sample should last, so that a clock's own error is small beside it
_MOST_CALLS = 500  # of a sample


@dataclass(frozen=True)
class Times:
    """Seconds of one call over `count` samples: their median, and the distance between their quartiles."""

    median: float
    spread: float
    count: int


class Timer(Protocol):
    """Takes the time of calls on a device."""

    def elapsed(self, run: Run, calls: int) -> float:
        """Seconds for `calls` calls, one after the other."""

    def repeated(self, run: Run, calls: int) -> Run:
        """A call that makes `calls` calls, with as little as possible between them."""


def _loop(run: Run, calls: int) -> Run:
    def loop() -> None:
        for _ in range(calls):
            run()

    return loop


@dataclass(frozen=True)
class ClockTimer:
    """By a clock, where a call returns when its work is done."""

    clock: Clock = time.perf_counter

    def elapsed(self, run: Run, calls: int) -> float:
        start = self.clock()
        for _ in range(calls):
            run()
        return self.clock() - start

    def repeated(self, run: Run, calls: int) -> Run:
        return _loop(run, calls)


class CudaTimer:
    """By events on a GPU's stream."""

    def elapsed(self, run: Run, calls: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def repeated(self, run: Run, calls: int) -> Run:
        """As a CUDA graph, whose launches cost next to nothing; raises `RuntimeError` where it cannot be."""
        graph, generator = torch.cuda.CUDAGraph(), torch.cuda.default_generators[torch.cuda.current_device()]
        state = generator.clone_state()
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                for _ in range(calls):
                    run()
        except RuntimeError:
            generator.graphsafe_set_state(state)  # its own one waits for the end of the capture for ever
            raise
        return graph.replay


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU a stream that is not the default one.

    A graph can be captured on no other, and gradients run on the stream of what they are gradients of.
    """
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield


def timer_for(device: torch.device) -> Timer:
    """The clock of a device: events on a GPU, which runs ahead of its host."""
    return CudaTimer() if device.type == "cuda" else ClockTimer()


def warm_up(run: Run, timer: Timer) -> float:
    """Call until nothing is compiled or allocated any more; seconds of one call then."""
    first = timer.elapsed(run, 1)
    if first >= LONG:
        return first
    timer.elapsed(run, WARM_UP - 1)
    return timer.elapsed(run, 1)


def time_in_turn(
    runs: Mapping[str, Run],
    timer: Timer,
    seconds: float,
    clock: Clock,
    most_calls: int | None = None,
    together: bool = False,
) -> dict[str, Times]:
    """Time contenders in turn, one sample of each a round, for about `seconds` in all.

    Whatever slows the machine down then slows all of them.  `most_calls` bounds how often each is called.
    `together`: the calls of a sample are launched as one, where that can be done for all contenders.
    """
    allowed = None if most_calls is None else most_calls - WARM_UP - 1
    calls = {name: _calls(warm_up(run, timer), allowed) for name, run in runs.items()}
    samples = _samples(runs, calls, timer, together)
    rounds = MOST_ROUNDS if allowed is None else min(allowed // max(calls.values()), MOST_ROUNDS)
    found: dict[str, list[float]] = {name: [] for name in runs}
    end = clock() + seconds
    names = list(runs)
    for done in range(max(rounds, 1)):
        if done >= LEAST_ROUNDS and clock() >= end:
            break
        for name in names[done % len(names) :] + names[: done % len(names)]:
            found[name].append(timer.elapsed(samples[name], 1) / calls[name])
    return {name: summary(times) for name, times in found.items()}


def _calls(single: float, allowed: int | None) -> int:
    """How many calls a sample has."""
    most = _MOST_CALLS if allowed is None else max(allowed // LEAST_ROUNDS, 1)
    return min(max(math.ceil(_SAMPLE / max(single, 1e-9)), 1), most)


def _samples(
    runs: Mapping[str, Run], calls: Mapping[str, int], timer: Timer, together: bool
) -> dict[str, Run]:
    """Each contender's calls of one sample."""
    if together:
        try:
            return {name: timer.repeated(run, calls[name]) for name, run in runs.items()}
        except RuntimeError:
            pass  # one after another then, for all of them
    return {name: _loop(run, calls[name]) for name, run in runs.items()}


def summary(times: list[float]) -> Times:
    """Median and spread of samples."""
    if len(times) < 2:
        return Times(times[0], 0.0, len(times))
    quartiles = statistics.quantiles(times, n=4, method="inclusive")
    return Times(statistics.median(times), quartiles[2] - quartiles[0], len(times))
