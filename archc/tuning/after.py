"""Calls of linear maps of one row in the kernels of the ops before them, beside both one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, TracebackType
from typing import Any

import torch

from archc.benchmarking.kernel_peers import two_kernels
from archc.benchmarking.timing import Run
from archc.codegen.kernels.linear.after_plan import LinearAfterKernel
from archc.codegen.kernels.linear.linear_plan import LinearKernel
from archc.compiler import Compilation
from archc.tuned import Entry, Problem, Provenance, Tile, Tuned
from archc.tuning.choice import problems_after
from archc.tuning.gpu import cold_weights
from archc.tuning.search import LIBRARY, Contender
from archc.verification.kernel_runs import make_operand
from archc.verification.packages import import_package

_ANY = Tile(1, 1, 1, 1)


class AfterRuns:
    """Calls for the contenders of a problem, each by a package of the model that has the problem.

    dtype: of the problems
    known: the measurements by which the two kernels are chosen that one stands for
    """

    def __init__(
        self,
        compilations: Sequence[Compilation],
        dtype: str,
        known: Callable[[], Tuned],
        source: Provenance,
        device: torch.device,
    ):
        # Each with the first model that has it, and the kernel.
        self._problems: dict[Problem, tuple[Compilation, LinearAfterKernel]] = {}
        for compilation in compilations:
            for problem, plan in problems_after(compilation, dtype).items():
                self._problems.setdefault(problem, (compilation, plan))
        self._known = known
        self._source = source
        self._device = device
        self._folders = ExitStack()
        self._packages: dict[tuple[int, Contender], tuple[ModuleType, Compilation]] = {}

    def __enter__(self) -> AfterRuns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folders.close()

    def __call__(self, problem: Problem, contenders: Sequence[Contender]) -> Mapping[Contender, Run]:
        compilation, plan = self._problems[problem]
        dtype = getattr(torch, problem.dtype)
        with self._device:
            operands = [make_operand(torch.randn, operand, dtype, 1) for operand in plan.op.operands]
        weights = cold_weights(problem, self._device)
        has_bias = ((problem.outputs, problem.inputs), True) in plan.maps
        bias = [torch.zeros_like(weights[0][:, 0]) if has_bias else None] if plan.biased else []

        def run(function: Callable[..., Any]) -> Run:
            turn = itertools.cycle(weights)
            return lambda: function(*operands, next(turn), *bias)

        return {each: run(self._function(compilation, plan, each)) for each in contenders}

    def _function(
        self, compilation: Compilation, plan: LinearAfterKernel, contender: Contender
    ) -> Callable[..., Any]:
        kernels, tried = self._package(compilation, contender)
        if contender is not LIBRARY:
            function: Callable[..., Any] = getattr(kernels, plan.name)
            return function
        own = (kernel.name for kernel in tried.planner.kernels if isinstance(kernel, LinearKernel))
        return two_kernels(plan, kernels, plan.linear if plan.reading.wide else next(own, "native.linear"))

    def _package(self, compilation: Compilation, contender: Contender) -> tuple[ModuleType, Compilation]:
        """The kernels.py whose maps after ops are all divided by one tile, or all apart."""
        key = id(compilation), contender
        if key not in self._packages:
            times = (1.0, 0.0) if contender is LIBRARY else (0.0, 1.0)
            trial = [Entry(each, contender or _ANY, *times, self._source) for each in self._problems]
            tried = replace(compilation, tuned=Tuned((*trial, *self._known().entries)))
            folder = self._folders.enter_context(TemporaryDirectory())
            package = import_package(tried, Path(folder))
            self._packages[key] = package.kernels, tried
        return self._packages[key]
