"""Timing linear maps on a GPU: by PyTorch, and by the kernels as a package has them."""

from __future__ import annotations

import datetime
import importlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
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

from archc.benchmarking.timing import Clock, Run, Timer, time_in_turn
from archc.compiler import Compilation
from archc.errors import ArchcError
from archc.tuned import MOST_ROWS, Entry, Problem, Provenance, Tile, Tuned
from archc.tuning.search import LIBRARY, Contender
from archc.verification.packages import import_package

_COLD = 256 << 20  # bytes of weights that are gone through before one is read again: no cache holds them
_MOST_COPIES = 64


def provenance() -> Provenance:
    """Where measurements of this process come from; raises `ArchcError` without a GPU."""
    if not torch.cuda.is_available():
        raise ArchcError("there is no GPU here: run `archc tune` on the machine that will run the model")
    today = datetime.date.today().isoformat()
    return Provenance(torch.cuda.get_device_name(), version("triton"), torch.__version__, today)


class Meter:
    """Times contenders in turn, on weights that lie in no cache; `function`: a package's op."""

    def __init__(self, function: Any, timer: Timer, device: torch.device, clock: Clock = time.monotonic):
        self._function = function
        self._timer = timer
        self._device = device
        self._clock = clock
        self._threads = os.cpu_count() if device.type == "cuda" else 1  # Triton interprets in one thread only

    def __call__(
        self, problem: Problem, contenders: Sequence[Contender], seconds: float
    ) -> Mapping[Contender, float]:
        """Seconds of a call by each contender that the GPU can run."""
        end = self._clock() + seconds
        inputs = self._inputs(problem)
        runs = {contender: self._run(contender, *inputs) for contender in contenders}
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

    def _inputs(self, problem: Problem) -> tuple[torch.Tensor, list[torch.Tensor]]:
        dtype = getattr(torch, problem.dtype)
        size = problem.elements * dtype.itemsize
        copies = min(max(-(-_COLD // size), 1), _MOST_COPIES)
        options = {"dtype": dtype, "device": self._device}
        weights = [torch.randn(problem.outputs, problem.inputs, **options) for _ in range(copies)]
        return torch.randn(problem.rows, 1, problem.inputs, **options), weights

    def _run(self, contender: Contender, x: torch.Tensor, weights: Sequence[torch.Tensor]) -> Run:
        turn = itertools.cycle(weights)
        if contender is LIBRARY:
            return lambda: F.linear(x, next(turn))
        tile = (contender.outputs, contender.inputs, contender.warps, contender.stages)
        return lambda: self._function(x, next(turn), None, *tile)

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


@contextmanager
def linear_function(compilation: Compilation, problem: Problem, source: Provenance) -> Iterator[Any]:
    """The op of linear maps of few rows, as packages of a model have it, which is one for all such rows."""
    trial = Entry(replace(problem, rows=MOST_ROWS), Tile(16, 64, 4, 3), 0.0, 1.0, source)
    with TemporaryDirectory() as folder:
        package = import_package(replace(compilation, tuned=Tuned((trial,))), Path(folder))
        kernels: ModuleType = importlib.import_module(f"{package.__name__}.kernels")
        yield kernels._linear
