"""Kernels compiled ahead of time: whether each compiles for a chip, and what it takes there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from archc.errors import ArchcError
from archc.verification.chips import Chip
from archc.verification.launch import Launch
from archc.verification.machine_code import MachineCode, read_machine_code

_MAX_THREADS = 1024  # of a program, on every chip


class KernelError(ArchcError):
    """A kernel that a chip cannot run."""


@dataclass(frozen=True)
class Usage:
    """What a kernel takes on a chip.  `adjacent`: values that lie side by side in all rows it moves."""

    name: str
    chip: str
    adjacent: int
    code: MachineCode

    def breaches(self) -> list[str]:
        """What a kernel must not have: spilled registers, narrow accesses, dots beside the tensor cores."""
        spilled = f"{self.code.spilled} bytes of registers spilled" if self.code.spilled else ""
        found = (spilled, self.code.narrow_accesses(self.adjacent), self.code.missing_tensor_cores())
        return [f"{self.name} on {self.chip}: {text}" for text in found if text]


def different(launches: Iterable[Launch], chip: Chip) -> list[Launch]:
    """The first launch of those that compile to the same code."""
    found: dict[str, Launch] = {}
    for launch in launches:
        found.setdefault(launch.key(chip), launch)
    return list(found.values())


def compile_launches(
    launches: Iterable[Launch], chip: Chip, threads: int | None = None
) -> list[Usage | KernelError]:
    """What each kernel takes, or why the chip cannot run it: see `compile_launch`.

    Compiled at once in so many threads, by default as many as there are processors: Triton's compiler does
    not hold Python back while it works.
    """

    def attempt(launch: Launch) -> Usage | KernelError:
        try:
            return compile_launch(launch, chip)
        except KernelError as error:
            return error

    with ThreadPoolExecutor(threads or _processors()) as pool:
        return list(pool.map(attempt, launches))


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compile_launch(launch: Launch, chip: Chip) -> Usage:
    """Compile a kernel to the chip's machine code; raises `KernelError` where that fails or does not fit."""
    import triton
    from triton.compiler import ASTSource
    from triton.errors import TritonError

    threads = launch.warps * chip.warp
    if threads > _MAX_THREADS:
        raise _error(launch, chip, f"{threads} threads, a program has {_MAX_THREADS} at most")
    signature, constants, facts = launch.specialise(chip)
    source = ASTSource(launch.kernel, signature, constants, facts)
    try:
        compiled = triton.compile(source, target=chip.target, options=launch.options)
    except (TritonError, RuntimeError) as error:
        raise _error(launch, chip, str(error)) from error
    code = read_machine_code(compiled, chip.backend, threads)
    if code.shared > chip.shared:
        raise _error(launch, chip, f"{code.shared:,} bytes of shared memory, there are {chip.shared:,}")
    return Usage(launch.name, chip.name, launch.adjacent, code)


def _error(launch: Launch, chip: Chip, text: str) -> KernelError:
    return KernelError(f"{launch.name} for {chip.name}: {text}")
