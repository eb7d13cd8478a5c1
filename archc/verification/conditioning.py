"""How far results move when what they are made of moves by rounding: no computation can be held to less."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_DRAWS = 4  # errors of one draw may cancel


def furthest_moved(error: Callable[[torch.Generator], float]) -> float:
    """The largest of some errors, each of what one generator has moved."""
    return max(error(torch.Generator().manual_seed(seed)) for seed in range(_DRAWS))


def near(tensors: Mapping[str, Tensor], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors whose fractions are a dtype's rounding larger or smaller."""
    rounding = torch.finfo(dtype).eps
    return {
        name: (
            x * (1 + rounding * torch.randn(x.shape, generator=generator, dtype=x.dtype).sign())
            if x.is_floating_point()
            else x
        )
        for name, x in tensors.items()
    }
