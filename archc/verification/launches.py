"""The launches of a package's kernels, found without a GPU: recorded in place of being made."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from archc.compiler import Compilation
from archc.errors import ArchcError
from archc.verification.kernel_runs import Sizes
from archc.verification.launch import Launch
from archc.verification.light_torch import without_dynamo
from archc.verification.meta_runs import run_kernels, run_model
from archc.verification.packages import import_package


def launches(compilation: Compilation, folder: Path, dtype: torch.dtype, length: int = 2) -> list[Launch]:
    """The launches of all kernels of a package, forward and backward, for one sequence of a length."""
    found: list[Launch] = []
    find_launches(compilation, folder, dtype, found.append, length)
    return found


def find_launches(
    compilation: Compilation,
    folder: Path,
    dtype: torch.dtype,
    tell: Callable[[Launch], None],
    length: int = 2,
) -> None:
    """The same, each told of when it is found.

    Triton must compile in this process, not interpret.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise ArchcError(
            "TRITON_INTERPRET=1 is set: Triton would interpret kernels in place of compiling them"
        )
    package = import_package(compilation, folder)
    if not hasattr(package, "kernels"):
        return
    sizes = Sizes(length)
    own: set[str] = set()

    def tell_own(launch: Launch) -> None:
        own.add(launch.name)
        tell(launch)

    def tell_other(launch: Launch) -> None:
        if launch.name not in own:
            tell(launch)

    with without_dynamo():
        _record(package.kernels, tell_own)
        run_kernels(package, compilation, dtype, sizes)
        _record(package.kernels, tell_other)
        run_model(package, compilation, dtype, sizes)


def _record(kernels: Any, tell: Callable[[Launch], None]) -> None:
    """Let the launches of a module's kernels be told of, and nothing else be done."""
    from triton.runtime.jit import JITFunction

    def record(kernel: Any, *given: Any, num_warps: int, num_stages: int | None = None, **named: Any) -> None:
        named = {name: value for name, value in named.items() if name in kernel.arg_names}
        bound = kernel.signature.bind(*given, **named).arguments
        constants = tuple(
            (param.name, bound.pop(param.name)) for param in kernel.params if param.is_constexpr
        )
        tell(Launch(kernel, tuple(bound.values()), num_warps, constants, num_stages, kernels._room(None)))

    for value in vars(kernels).values():
        if isinstance(value, JITFunction):
            value.run = partial(record, value)
