"""How long a model takes from its spec to the machine code of all its kernels, on two cores.

    python benchmarks/aot_time.py [--chip sm_90] [--save] [MODEL...]

First `archc build`, as a whole process; then two processes share the kernels, forward and backward, in
bfloat16, with an empty cache, from the start of the interpreter.  The bound is 15 s a model.  Without
names: all models of all specs.  `--save` appends the times to aot_time.json, with date, commit and machine.
"""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import click

from archc import compiler

ROOT = Path(__file__).resolve().parent.parent
HISTORY = Path(__file__).with_suffix(".json")
BOUND = 15.0  # seconds
CORES = 2


@click.command()
@click.option("--chip", default="sm_90", show_default=True, help="What to compile for.")
@click.option("--save", is_flag=True, help="Append the times to aot_time.json.")
@click.argument("models", nargs=-1)
def main(chip: str, save: bool, models: Sequence[str]) -> None:
    """Time the build and the compilation of all kernels of models."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    seconds: dict[str, float] = {}
    kernels: dict[str, int] = {}
    for model, spec in _all_models().items():
        if not models or model in models:
            seconds[model], kernels[model] = _time(spec, model, chip)
            late = "  over the bound" if seconds[model] > BOUND else ""
            click.echo(f"{model:16} {kernels[model]:3} kernels {seconds[model]:6.2f} s{late}")
    if save:
        _save(seconds, kernels, chip)


def _all_models() -> dict[str, Path]:
    specs = sorted((ROOT / "specs").glob("*.arch"))
    return {model: path for path in specs for model in compiler.read_spec_file(path).models}


def _time(spec: Path, model: str, chip: str) -> tuple[float, int]:
    """Seconds, and how many different kernels there are."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = str(Path(folder) / "triton")
        start = time.perf_counter()
        build = [sys.executable, "-m", "archc", "build", str(spec), "--model", model, "-o", folder]
        subprocess.run(build, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        with ProcessPoolExecutor(CORES, mp_context=multiprocessing.get_context("spawn")) as processes:
            shares = [processes.submit(_compile, spec, model, chip, share) for share in range(CORES)]
            counts = [share.result() for share in shares]
        return time.perf_counter() - start, sum(counts)


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


def _save(seconds: dict[str, float], kernels: dict[str, int], chip: str) -> None:
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
            "seconds": {model: round(taken, 2) for model, taken in seconds.items()},
            "kernels": kernels,
        }
    )
    HISTORY.write_text(json.dumps(history, indent=2) + "\n")


if __name__ == "__main__":
    main()
