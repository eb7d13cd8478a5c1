"""Timing linear maps on a GPU: by PyTorch, and by the kernels as a package has them."""

from __future__ import annotations

import datetime
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from archc.benchmarking.timing import Clock, Run, Timer, time_in_turn
from archc.compiler import Compilation
from archc.errors import ArchcError
from archc.tuned import MOST_ROWS, Entry, Problem, Provenance, Tile, Tuned
from archc.tuning.search import LIBRARY, Contender
from archc.verification.packages import import_package

Runs = Callable[[Problem, Sequence[Contender]], Mapping[Contender, Run]]

_COLD = 256 << 20  # bytes of weights that are gone through before one is read again: no cache holds them
_MOST_COPIES = 64


def provenance() -> Provenance:
    """Where measurements of this process come from; raises `ArchcError` without a GPU."""
    if not torch.cuda.is_available():
        raise ArchcError("there is no GPU here: run `archc tune` on the machine that will run the model")
    today = datetime.date.today().isoformat()
    return Provenance(torch.cuda.get_device_name(), version("triton"), torch.__version__, today)


class Meter:
    """Times contenders in turn; `runs` makes a call of each for a problem."""

    def __init__(self, runs: Runs, timer: Timer, device: torch.device, clock: Clock = time.monotonic):
        self._runs = runs
        self._timer = timer
        self._clock = clock
        self._threads = os.cpu_count() if device.type == "cuda" else 1  # Triton interprets in one thread only

    def __call__(
        self, problem: Problem, contenders: Sequence[Contender], seconds: float
    ) -> Mapping[Contender, float]:
        """Seconds of a call by each contender that the GPU can run."""
        end = self._clock() + seconds
        runs = self._runs(problem, contenders)
        with ThreadPoolExecutor(self._threads) as threads:  # each compiles its kernel
            working = list(threads.map(lambda run: self._clock() <= end and self._works(run), runs.values()))
        runs = {
            contender: run for (contender, run), works in zip(runs.items(), working, strict=True) if works
        }
        if not runs:
            return {}
        names = {str(number): contender for number, contender in enumerate(runs)}
        named = {name: runs[contender] for name, contender in names.items()}
        left = max(end - self._clock(), 0.0)
        with torch.no_grad():
            times = time_in_turn(named, self._timer, left, self._clock, together=True)
        return {names[name]: each.median for name, each in times.items()}

    def _works(self, run: Run) -> bool:
        """Whether a contender runs: a tile may need more registers or shared memory than there are.

        Compiling kernels takes most of a search's time, and threads do it side by side.
        """
        from triton.errors import TritonError

        try:
            with torch.no_grad():
                run()
        except (TritonError, RuntimeError):
            return False
        return True


class LinearRuns:
    """Calls of linear maps by themselves; `function`: a package's op."""

    def __init__(self, function: Any, device: torch.device):
        self._function = function
        self._device = device

    def __call__(self, problem: Problem, contenders: Sequence[Contender]) -> Mapping[Contender, Run]:
        dtype = getattr(torch, problem.dtype)
        x = torch.randn(problem.rows, 1, problem.inputs, dtype=dtype, device=self._device)
        weights = cold_weights(problem, self._device)
        return {contender: self._run(contender, x, weights) for contender in contenders}

    def _run(self, contender: Contender, x: Tensor, weights: Sequence[Tensor]) -> Run:
        turn = itertools.cycle(weights)
        if contender is LIBRARY:
            return lambda: F.linear(x, next(turn))
        tile = (contender.outputs, contender.inputs, contender.warps, contender.stages)
        return lambda: self._function(x, next(turn), None, *tile)


def cold_weights(problem: Problem, device: torch.device) -> list[Tensor]:
    """So many weights for a problem that none lies in a cache when its turn comes again."""
    dtype = getattr(torch, problem.dtype)
    copies = min(max(-(-_COLD // (problem.elements * dtype.itemsize)), 1), _MOST_COPIES)
    shape = problem.outputs, problem.inputs
    return [torch.randn(shape, dtype=dtype, device=device) for _ in range(copies)]


@contextmanager
def linear_function(compilation: Compilation, problem: Problem, source: Provenance) -> Iterator[Any]:
    """The op of linear maps of few rows, as packages of a model have it, which is one for all such rows."""
    trial = Entry(replace(problem, rows=MOST_ROWS), Tile(16, 64, 4, 3), 0.0, 1.0, source)
    with TemporaryDirectory() as folder:
        package = import_package(replace(compilation, tuned=Tuned((trial,))), Path(folder))
        kernels: ModuleType = package.kernels
        yield kernels._linear
