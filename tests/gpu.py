"""Tests of kernels on a real GPU: `pytest --gpu`.

What Triton interprets on CPU tensors without the option is compiled and run with it, and tensors that tests
make without naming a device are on the GPU.  Random ones are the CPU's, so that tests see the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

OPTION = "--gpu"
_RANDOM = (torch.randn, torch.rand, torch.randint, torch.randperm)


class _DrawnOnCpu(TorchFunctionMode):
    """Random tensors are drawn on the CPU."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function not in _RANDOM or kwargs.get("device") is not None:
            return function(*args, **kwargs)
        wanted = kwargs.pop("requires_grad", False)
        return function(*args, **kwargs, device="cpu").cuda().requires_grad_(wanted)


_MODE = _DrawnOnCpu()


def enter() -> None:
    """From now on tensors are on the GPU."""
    if not torch.cuda.is_available():
        raise pytest.UsageError(f"{OPTION}: there is no GPU here")
    torch.set_default_device("cuda")
    _MODE.__enter__()


def is_on() -> bool:
    """Whether the tests of this process run on a GPU."""
    return torch.get_default_device().type == "cuda"
