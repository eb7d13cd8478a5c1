"""What one decoding step of a package does on a GPU, counted.

Nothing is computed: the package's model runs on tensors without memory, with its kernels switched on, so that
whatever would wait for the device raises.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

from archc.verification.packages import given_tokens
from tests.instruments.work import Count, Work


def counted_step(package: ModuleType, batch: int, context: int, dtype: torch.dtype = torch.bfloat16) -> Work:
    """The work of one step of a package's `Model`; raises where it waits for the device."""
    module = package.Model.__module__.rpartition(".")[0]
    kernels, decoding = (sys.modules[f"{module}.{name}"] for name in ("kernels", "decoding"))
    model = package.Model(dtype=dtype, device="meta")
    tokens = torch.empty(batch, context, dtype=torch.int64, device="meta")
    cache = model.new_cache(batch, context + 2)
    sampler = decoding.Sampler(0.0, 1.0, 0, torch.device("cpu"))
    with torch.no_grad(), _kernels_on(kernels), Count() as count:
        model.hidden(*given_tokens(model, tokens, tokens), cache=cache)
        cache.start_steps()

        def logits(token: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = model.head(model.hidden(*given_tokens(model, token, None), cache=cache))[
                :, 0
            ]
            return found

        decoder = decoding.Decoder(logits, cache, sampler, None, tokens[:, 0], 3)
        decoder.step()  # what is made once is made now
        count.work = Work()
        decoder.step()
        work: Work = count.work
    return work


@contextmanager
def _kernels_on(kernels: ModuleType) -> Iterator[None]:
    """Let tensors without memory take the road of those on a GPU."""
    original = vars(kernels)["_runs_triton"]
    vars(kernels)["_runs_triton"] = lambda _x: True
    try:
        yield
    finally:
        vars(kernels)["_runs_triton"] = original
