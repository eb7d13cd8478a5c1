"""One turn: contenders of a case, prepared, timed side by side, and put beside what the device could do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from archc.benchmarking.memory import with_peak
from archc.benchmarking.plan import SkippedError
from archc.benchmarking.probes import Rates
from archc.benchmarking.results import OURS, Case, Findings, Measurement
from archc.benchmarking.timing import Clock, Run, Timer, time_in_turn

Prepare = Callable[[], Run]
T = TypeVar("T")


@dataclass(frozen=True)
class Bench:
    """What every turn needs: the device, how time is taken, what the device can do."""

    device: torch.device
    dtype: torch.dtype
    timer: Timer
    clock: Clock
    rates: Rates
    seconds: float  # that the timing of one turn may take

    def turn(
        self,
        case: Case,
        contenders: Mapping[str, Prepare],
        number: int,
        *,
        most_calls: int | None = None,
        together: bool = False,
        memory: bool = False,
    ) -> Findings:
        """Time contenders in turn; raises `SkippedError` where one of them cannot be prepared."""
        runs: dict[str, Run] = {}
        peaks: dict[str, int] = {}
        for name, prepare in reversed(list(contenders.items())):  # without the peer there is nothing to do
            runs[name], peaks[name] = _tried(partial(_first_call, prepare, self.device, memory))
        left = None if most_calls is None else most_calls - 1  # the first one has been made
        times = _tried(partial(time_in_turn, runs, self.timer, self.seconds, self.clock, left, together))
        return Findings(
            [
                Measurement(
                    case,
                    name,
                    times[name],
                    number,
                    times[name].median / times[OURS].median,
                    peaks[name] if memory else None,
                )
                for name in contenders
            ]
        )


def _first_call(prepare: Prepare, device: torch.device, memory: bool) -> tuple[Run, int]:
    """What is prepared, after one call, and the memory that both took at their peak."""

    def work() -> Run:
        run = prepare()
        run()
        return run

    return with_peak(device, work) if memory else (work(), 0)


def _tried(work: Callable[[], T]) -> T:
    """The result of work that a contender does; raises `SkippedError` where it fails."""
    try:
        return work()
    except SkippedError:
        raise
    except torch.OutOfMemoryError:
        raise SkippedError("there is not enough memory") from None
    except Exception as error:  # whatever a peer's code raises is a fact about the peer
        text = str(error).strip().partition("\n")[0]
        raise SkippedError(f"it fails: {type(error).__name__}: {text}") from error
