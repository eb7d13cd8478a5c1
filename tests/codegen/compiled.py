"""Kernels that were compiled for a chip and are within its limits, by digests of what they are compiled from.

compiled.txt has the digests for what the default suite has, so that its tests compile what has changed since.
A digest is of a kernel's text, the types and facts that the compiler is given, its options and the chip; the
first line of the file is of the compiler, and of how its output is judged.  Where that differs, nothing is
known, and all is compiled.

    python -m tests.codegen.compiled    compiles what is not known, and writes the file
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zlib import crc32

import torch
import triton
from rich.progress import track

from archc.verification import chips, compiling, machine_code
from archc.verification.chips import CHIPS
from archc.verification.compiling import KernelError, compile_launch
from archc.verification.launch import Launch
from archc.verification.launches import launches
from tests.analysis.models import MODELS
from tests.codegen.hard_kernels import HARD
from tests.codegen.kernel_cases import FIRST, spec_of_case
from tests.codegen.test_recurrence import spec
from tests.support import compile_model, read_spec

FILE = Path(__file__).with_name("compiled.txt")
MAIN = "sm_90"
_DECLARED = [read_spec(path).module.models[model] for model, path in MODELS.items()]
FIRST_MODELS = [*{model.arch: model.name for model in reversed(_DECLARED)}.values()]  # of each architecture
USUAL = (torch.bfloat16, MAIN)
OTHERS = [*((torch.bfloat16, chip) for chip in CHIPS if chip != MAIN), (torch.float32, MAIN)]
ALL = [(model, *target) for model in MODELS for target in (USUAL, *OTHERS)]
# Forms of recurrences that no spec has, with the width of a head's keys and values in published models.
BY_CHANNEL = {"decay_by_channel": "128", "delta_by_channel": "128", "erase": "64"}
# The first model of every architecture for what is usual and for one of the others, which its name decides:
# so that a further model changes nothing for those that there are.
DEFAULT = [
    (model, *target)
    for model in FIRST_MODELS
    for target in (USUAL, OTHERS[crc32(model.encode()) % len(OTHERS)])
]


@functools.lru_cache(maxsize=2)  # targets of a model follow one another
def of_model(model: str, dtype: torch.dtype, length: int = 2) -> list[Launch]:
    """At real widths, for one sequence of a length: 1 is a constant for the compiler, 16 divides others."""
    with tempfile.TemporaryDirectory() as folder:
        return launches(compile_model(MODELS[model], model), Path(folder), dtype, length)


def of_fusion(name: str) -> list[Launch]:
    """Of a small model in which it fires, whose blocks are masked."""
    with tempfile.TemporaryDirectory() as folder:
        return launches(compile_model(spec_of_case(name), "a"), Path(folder), torch.bfloat16)


def of_recurrence(form: str, dtype: torch.dtype) -> list[Launch]:
    """Of one of these forms."""
    with tempfile.TemporaryDirectory() as folder:
        compilation = compile_model(spec(form), "recurrent", dict.fromkeys(("dk", "dv"), BY_CHANNEL[form]))
        found = launches(compilation, Path(folder), dtype)
        return [launch for launch in found if launch.name.startswith("_linear_attention")]


def breaches(found: Iterable[Launch], chip: str) -> list[str]:
    """What is beyond the limits of a chip, of those that it has."""
    return [text for launch in unknown(found, chip).values() for text in _judge(launch, chip)]


def unknown(found: Iterable[Launch], chip: str) -> dict[str, Launch]:
    """Those that are not known to be within the limits, by digest."""
    return {digest: launch for digest, launch in by_digest(found, chip).items() if digest not in known()}


def by_digest(found: Iterable[Launch], chip: str) -> dict[str, Launch]:
    """Those that a chip has, once where they compile to the same code."""
    belonging = (launch for launch in found if launch.belongs_to(CHIPS[chip]))
    return {hashlib.sha256(each.key(CHIPS[chip]).encode()).hexdigest()[:16]: each for each in belonging}


def _judge(launch: Launch, chip: str) -> list[str]:
    try:
        return compile_launch(launch, CHIPS[chip]).breaches()
    except KernelError as error:
        return [str(error)]


@functools.cache
def known() -> frozenset[str]:
    """The digests of kernels that were compiled and are within the limits."""
    noted, *digests = FILE.read_text().splitlines()
    return frozenset(digests) if noted == toolchain() else frozenset()


def toolchain() -> str:
    """The compiler, and a digest of how what it makes is judged."""
    judged = hashlib.sha256()
    for module in (chips, compiling, machine_code):
        judged.update(Path(module.__file__).read_bytes())
    return f"triton {triton.__version__}, judged by {judged.hexdigest()[:16]}"


def _recorded() -> Iterator[tuple[list[Launch], str]]:
    for name in FIRST:
        yield of_fusion(name), MAIN
    for form in BY_CHANNEL:
        yield of_recurrence(form, torch.bfloat16), MAIN
    for made in HARD.values():
        yield made(), MAIN
    for model, dtype, chip in DEFAULT:
        yield of_model(model, dtype), chip


def _record() -> None:
    """Compile what is not known, in as many threads as there are processors; keep what is still there.

    The file is written after each model: what is there when this is stopped need not be compiled again.
    """
    kept: set[str] = set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        total = len(FIRST) + len(BY_CHANNEL) + len(HARD) + len(DEFAULT)
        for found, chip in track(_recorded(), "Compiling", total=total):
            new = {digest: launch for digest, launch in unknown(found, chip).items() if digest not in kept}
            judged = pool.map(functools.partial(_judge, chip=chip), new.values())
            for digest, texts in zip(new, judged, strict=True):
                print(*texts, sep="\n", end="\n" if texts else "")
                kept |= set() if texts else {digest}
            kept |= by_digest(found, chip).keys() & known()
            write(kept | known())
    write(kept)


def write(digests: Iterable[str]) -> None:
    FILE.write_text("\n".join([toolchain(), *sorted(digests)]) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
        _record()
