"""Calls timed as CUDA graphs: gradients too, and what cannot be captured leaves nothing behind."""

from __future__ import annotations

import pytest
import torch

from archc.benchmarking.timing import CudaTimer, own_stream, time_in_turn
from tests.benchmarking.clocks import Ticking

pytestmark = pytest.mark.gpu


def test_gradients_are_captured() -> None:
    with own_stream(torch.device("cuda")):
        x = torch.randn(64, 64, device="cuda", requires_grad=True)
        y = x.square().sum()
        found = torch.zeros_like(x)
        run = lambda: found.add_(torch.autograd.grad(y, x, retain_graph=True)[0])  # noqa: E731
        run()
        replay = CudaTimer().repeated(run, 3)
        found.zero_()
        replay()
        torch.testing.assert_close(found, 6 * x.detach())


def test_after_a_capture_that_failed_everything_works_as_before() -> None:
    def waits() -> float:
        return float(torch.randn(3, device="cuda").sum())

    def works() -> torch.Tensor:
        return torch.randn(3, device="cuda")

    with own_stream(torch.device("cuda")):
        waits()
        with pytest.raises(RuntimeError):
            CudaTimer().repeated(waits, 2)
        first = works()
        assert not torch.equal(first, works())
        times = time_in_turn({"waits": waits, "works": works}, CudaTimer(), 0.0, Ticking(0.1), together=True)
    assert all(each.median > 0 for each in times.values())
