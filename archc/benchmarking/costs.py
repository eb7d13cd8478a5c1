"""What a case costs at the least: bytes and FLOPs of its kernels, and the roofline by this run's probes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from archc.analysis.kernels import Kernel, Shape, Work, kernels
from archc.analysis.parameters import count_parameters, roles_by_path
from archc.analysis.roofline import phase
from archc.benchmarking.probes import Rates
from archc.benchmarking.results import Case
from archc.compiler import Compilation


@dataclass(frozen=True)
class Costs:
    """The costs of a model's cases on the device that was probed."""

    compilation: Compilation
    dtype: torch.dtype
    rates: Rates

    def decode(self, case: Case, batch: int, context: int) -> Case:
        """One token of each sequence after `context` others."""
        return self._priced(case, self._forward(Shape(batch, 1, context + 1, 1)))

    def prefill(self, case: Case, batch: int, tokens: int) -> Case:
        """A prompt, with logits of its last token."""
        return self._priced(case, self._forward(Shape(batch, tokens, tokens, 1)))

    def training(self, case: Case, batch: int, tokens: int) -> Case:
        """Forward, twice as much backward, and AdamW: it reads four numbers of a parameter, writes three."""
        forward = self._forward(Shape(batch, tokens, tokens, tokens))
        parameters = count_parameters(self.compilation.reference).total
        optimiser = Kernel("adamw", "", 1, Work(bytes=7 * parameters * self.dtype.itemsize))
        return self._priced(case, [*(replace(each, times=3 * each.times) for each in forward), optimiser])

    def _forward(self, shape: Shape) -> list[Kernel]:
        roles = roles_by_path(self.compilation.reference)
        return list(kernels(self.compilation.fused, shape, self.dtype.itemsize, roles))

    def _priced(self, case: Case, work: Iterable[Kernel]) -> Case:
        name = str(self.dtype).removeprefix("torch.")
        found = phase(work, self.rates.device(name), name, case.tokens)
        return replace(case, bytes=found.bytes, flops=found.flops, least=found.seconds)
