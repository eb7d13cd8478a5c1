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

    def _complete(self) -> None:
        self.__dict__ |= {**vars(importlib.import_module(self._module)), "_module": self._module}


_MODULES = (_Lazy("torch"), _Lazy("torch.nn.functional"))


def import_now() -> None:
    """Import both, so that no first use does: TorchDynamo cannot trace an import."""
    for module in _MODULES:
        module._complete()


if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    torch, F = _MODULES
    Tensor = Any

__all__ = ["F", "Tensor", "import_now", "torch"]
