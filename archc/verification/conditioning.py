"""How far results move when what they are made of moves by rounding: no computation can be held to less."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from archc.verification.cases import Case
from archc.verification.outcome import furthest

_DRAWS = 4  # errors of one draw may cancel
_Tensors = dict[str, Tensor]


def furthest_moved(
    run: Callable[[Case, _Tensors], _Tensors],
    case: Case,
    weights: _Tensors,
    truth: _Tensors,
    dtype: torch.dtype,
    padding: Tensor | None,
) -> float:
    """How far from the truth results are at most when all that a run is given moves by a dtype's rounding."""

    def error(generator: torch.Generator) -> float:
        moved = replace(case, inputs=_near(case.inputs, dtype, generator))
        return furthest(run(moved, _near(weights, dtype, generator)), truth, padding)

    return max(error(torch.Generator().manual_seed(seed)) for seed in range(_DRAWS))


def moved_models(model: nn.Module) -> Iterator[nn.Module]:
    """Copies of a model, each with weights that have moved by their rounding."""
    for seed in range(_DRAWS):
        near, weights = deepcopy(model), model.state_dict()
        moved = _near(weights, torch.float64, torch.Generator().manual_seed(seed))
        near.load_state_dict(moved)
        near.zero_grad()
        yield near


def _near(tensors: Mapping[str, Tensor], dtype: torch.dtype, generator: torch.Generator) -> _Tensors:
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
