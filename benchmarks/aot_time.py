"""How long a model takes from its spec to the machine code of all its kernels, on two cores.

    python benchmarks/aot_time.py [--chip sm_90] [--save] [MODEL...]

First `archc build`, as a whole process; then two processes share the kernels, forward and backward, in
bfloat16, with an empty cache, from the start of the interpreter.  The bound is 15 s a model.  The processors'
time of all processes stands beside it: it says more where the machine has other work to do.  Without names:
all models of all specs.  `--save` appends the times to aot_time.json, with date, commit and machine.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click

from archc import compiler

ROOT = Path(__file__).resolve().parent.parent
HISTORY = Path(__file__).with_suffix(".json")
BOUND = 15.0  # seconds
CORES = 2


@dataclass(frozen=True)
class Result:
    """How many different kernels a model has; how long it took, by the clock and of all processors."""

    kernels: int
    seconds: float
    processors: float


@click.command()
@click.option("--chip", default="sm_90", show_default=True, help="What to compile for.")
@click.option("--save", is_flag=True, help="Append the times to aot_time.json.")
@click.argument("models", nargs=-1)
def main(chip: str, save: bool, models: Sequence[str]) -> None:
    """Time the build and the compilation of all kernels of models."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    results: dict[str, Result] = {}
    for model, spec in _all_models().items():
        if not models or model in models:
            found = results[model] = _time(spec, model, chip)
            late = "  over the bound" if found.seconds > BOUND else ""
            times = f"{found.seconds:6.2f} s, {found.processors:6.2f} s of processors"
            click.echo(f"{model:16} {found.kernels:3} kernels {times}{late}")
    if save:
        _save(results, chip)


def _all_models() -> dict[str, Path]:
    specs = sorted((ROOT / "specs").glob("*.arch"))
    return {model: path for path in specs for model in compiler.read_spec_file(path).models}


def _time(spec: Path, model: str, chip: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = str(Path(folder) / "triton")
        start, before = time.perf_counter(), _processors()
        build = [sys.executable, "-m", "archc", "build", str(spec), "--model", model, "-o", folder]
        subprocess.run(build, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        with ProcessPoolExecutor(CORES, mp_context=multiprocessing.get_context("spawn")) as processes:
            shares = [processes.submit(_compile, spec, model, chip, share) for share in range(CORES)]
            counts = [share.result() for share in shares]
        return Result(sum(counts), time.perf_counter() - start, _processors() - before)


def _processors() -> float:
    """Seconds that this process and those that it has waited for took of processors."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _compile(spec: Path, model: str, chip: str, share: int) -> int:
    """Compile every second kernel; how many that were."""
    import torch

    from archc.verification.aot import CHIPS, compile_launch, launches

    read = compiler.read_spec_file(spec)
    (program,) = compiler.lower_models(read, [model])
    with tempfile.TemporaryDirectory() as folder:
        compilation = compiler.compile_program(program, read.rules)
        found = launches(compilation, Path(folder), torch.bfloat16)
        different = {launch.key(CHIPS[chip]): launch for launch in found}
        mine = list(different.values())[share::CORES]
        for launch in mine:
            compile_launch(launch, CHIPS[chip])
    return len(mine)


def _save(results: dict[str, Result], chip: str) -> None:
    seconds = {model: round(result.seconds, 2) for model, result in results.items()}
    history = json.loads(HISTORY.read_text()) if HISTORY.exists() else []
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    history.append(
        {
            "date": datetime.date.today().isoformat(),
            "commit": commit.stdout.strip(),
            "python": platform.python_version(),
            "triton": version("triton"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "chip": chip,
            "median": round(statistics.median(seconds.values()), 2),
            "longest": round(max(seconds.values()), 2),
            "load": round(os.getloadavg()[0], 1),
            "seconds": seconds,
            "processors": {model: round(result.processors, 2) for model, result in results.items()},
            "kernels": {model: result.kernels for model, result in results.items()},
        }
    )
    HISTORY.write_text(json.dumps(history, indent=2) + "\n")


if __name__ == "__main__":
    main()
