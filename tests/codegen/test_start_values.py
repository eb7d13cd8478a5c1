"""Start values as the code of a package draws them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archc.codegen.modules.start_values import start_code
from archc.ir.inits import Fill, Init, InverseSoftplus, Logarithm, LogUniform, Normal, Spaced, Uniform

HALF, LINE = 0.5, torch.linspace(1.0, 5.0, 5)


def drawn(init: Init, *shape: int) -> Tensor:
    """Start values as a package's module gives them to a parameter, outside of `no_grad`."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.empty(shape))
    eval(start_code(init).format("parameter"), {"nn": nn, "torch": torch, "parameter": parameter})
    assert parameter.grad_fn is None
    return parameter.detach()


@pytest.mark.parametrize(
    ("init", "spread"),
    [
        (Uniform(2.0, 4.0), lambda x: (x - 2.0) / 2.0),
        (LogUniform(0.001, 0.1), lambda x: (x.log() - math.log(0.001)) / math.log(100.0)),
        (Logarithm(Uniform(1.0, 16.0)), lambda x: (x.exp() - 1.0) / 15.0),
        (InverseSoftplus(LogUniform(0.01, 1.0)), lambda x: (F.softplus(x).log() / math.log(100.0)) + 1.0),
        (InverseSoftplus(Logarithm(Uniform(2.0, 8.0))), lambda x: (F.softplus(x).exp() - 2.0) / 6.0),
        (Normal(3.0), lambda x: (1 + torch.erf(x / 3.0 / 2**HALF)) / 2),
    ],
    ids=lambda value: str(value) if isinstance(value, Init) else "",
)
def test_values_have_the_distribution_that_they_should(init: Init, spread: object) -> None:
    """What should be uniform from 0 to 1 is, tenth by tenth."""
    assert callable(spread)
    shares = torch.histc(spread(drawn(init, 100, 100)), 10, 0.0, 1.0) / 10_000
    assert float((shares - 0.1).abs().max()) < 0.02


def test_values_in_equal_steps_and_constants() -> None:
    assert torch.equal(drawn(Spaced(1.0, 5.0), 3, 5), LINE.expand(3, 5))
    assert torch.equal(drawn(Logarithm(Spaced(1.0, 5.0)), 5), LINE.log())
    assert torch.equal(drawn(Fill(0.5), 4), torch.full((4,), 0.5))
    torch.testing.assert_close(F.softplus(drawn(InverseSoftplus(Fill(0.25)), 4)), torch.full((4,), 0.25))
