"""`torch` and `F` for reference semantics, imported when first used: checking and building need neither."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


class _Lazy:
    def __init__(self, module: str):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self._module), name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    torch = _Lazy("torch")
    F = _Lazy("torch.nn.functional")
    Tensor = Any

__all__ = ["F", "Tensor", "torch"]
