"""Kernels compiled ahead of time: whether each compiles for a chip, and what it takes there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from archc.errors import ArchcError
from archc.verification.chips import Chip
from archc.verification.launch import Launch
from archc.verification.machine_code import MachineCode, read_cubin, read_machine_code

_MAX_THREADS = 1024  # of a program, on every chip
_REGISTERS, _MOST = 1 << 16, 255  # of a program, and of one of its threads, where they can be set
_CHOSEN = 32  # bytes that spill by choice at most


class KernelError(ArchcError):
    """A kernel that a chip cannot run."""


@dataclass(frozen=True)
class Usage:
    """What a kernel takes on a chip.

    adjacent: values that lie side by side in all rows it moves
    lacking:  bytes of a thread that spill for want of registers; others may by the assembler's choice
    """

    name: str
    chip: str
    adjacent: int
    code: MachineCode
    lacking: int

    def breaches(self) -> list[str]:
        """What a kernel must not have: too few registers, narrow accesses, dots beside the tensor cores."""
        spilled = f"{self.lacking} bytes of registers spilled" if self.lacking else ""
        found = (spilled, self.code.narrow_accesses(self.adjacent), self.code.missing_tensor_cores())
        return [f"{self.name} on {self.chip}: {text}" for text in found if text]


class Compiling:
    """Launches that are compiled for chips in threads of its own, each from when it is told of.

    Those that a chip does not have, or that compile to the same code, are left out.  Triton's compiler does
    not hold Python back while it works, so that further launches may be looked for meanwhile.  There are as
    many threads as processors, if it is not said how many.
    """

    def __init__(self, chips: Iterable[Chip], threads: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(threads or _processors())
        self._found: dict[Chip, dict[str, tuple[Launch, Future[Usage | KernelError]]]] = {
            chip: {} for chip in chips
        }

    def __enter__(self) -> Compiling:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=error is not None)

    def add(self, launch: Launch) -> None:
        """Compile it for each chip that has it."""
        for chip, found in self._found.items():
            if launch.belongs_to(chip) and (key := launch.key(chip)) not in found:
                found[key] = launch, self._pool.submit(_attempt, launch, chip)

    def results(self, chip: Chip) -> list[tuple[Launch, Usage | KernelError]]:
        """What each kernel takes, or why the chip cannot run it, in the order they were told of."""
        return [(launch, compiled.result()) for launch, compiled in self._found[chip].values()]


def _attempt(launch: Launch, chip: Chip) -> Usage | KernelError:
    try:
        return compile_launch(launch, chip)
    except KernelError as error:
        return error


def hash_triton() -> None:
    """Let Triton hash its own files, as it does once in a process before it compiles anything.

    It takes half a second in which Python can do something else; threads that begin to compile at once would
    each do it.
    """
    from triton.runtime.cache import triton_key

    triton_key()


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compile_launch(launch: Launch, chip: Chip) -> Usage:
    """Compile a kernel to the chip's machine code; raises `KernelError` where that fails or does not fit."""
    threads = launch.warps * chip.warp
    if threads > _MAX_THREADS:
        raise _error(launch, chip, f"{threads} threads, a program has {_MAX_THREADS} at most")
    code = read_machine_code(_compiled(launch, chip), chip.backend, threads)
    if code.shared > chip.shared:
        raise _error(launch, chip, f"{code.shared:,} bytes of shared memory, there are {chip.shared:,}")
    return Usage(launch.name, chip.name, launch.adjacent, code, lacking_registers(launch, chip, code))


def lacking_registers(launch: Launch, chip: Chip, code: MachineCode) -> int:
    """The bytes that a thread spills for want of registers.

    NVIDIA's assembler may use fewer than there are and spill a little, so that one more program fits beside.
    What it still spills when it is told that a thread has all of them is what they cannot hold.  A package
    leaves the choice to the assembler; `archc kernels --json` tells of the bytes `spilled` either way.
    """
    most = min(_MOST, _REGISTERS // code.threads)
    if chip.backend != "cuda" or not 0 < code.spilled <= _CHOSEN or code.registers >= most:
        return code.spilled
    _, spilled = read_cubin(_assembled(_compiled(launch, chip).asm["ptx"], most, launch, chip))
    return spilled


def _compiled(launch: Launch, chip: Chip) -> Any:
    """What Triton compiles, or finds in its cache."""
    import triton
    from triton.compiler import ASTSource
    from triton.errors import TritonError

    signature, constants, facts = launch.specialise(chip)
    source = ASTSource(launch.kernel, signature, constants, facts)
    try:
        return triton.compile(source, target=chip.target, options=launch.options)
    except (TritonError, RuntimeError) as error:
        raise _error(launch, chip, str(error)) from error


def _assembled(assembly: str, registers: int, launch: Launch, chip: Chip) -> bytes:
    """NVIDIA's assembler alone run again, told how many registers a thread may have."""
    from triton.compiler.compiler import make_backend

    backend = make_backend(chip.target)
    limited, places = re.subn(r"(?m)^\.reqntid .*", rf"\g<0>\n.maxnreg {registers}", assembly)
    assert places == 1, "a kernel says once how many threads it has"
    return bytes(backend.make_cubin(limited, {}, backend.parse_options(launch.options), chip.target.arch))


def _error(launch: Launch, chip: Chip, text: str) -> KernelError:
    return KernelError(f"{launch.name} for {chip.name}: {text}")
