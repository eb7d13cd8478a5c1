"""How long a model takes from its spec to the machine code of all its kernels, on two cores.

    python benchmarks/aot_time.py [--chip sm_90] [--save] [MODEL...]

First `archc build`, then `archc kernels`, as whole processes with an empty cache: forward and backward, in
bfloat16.  The bound is 15 s a model.  The processors' time beside it says more where the machine has other
work to do: half of it is what two cores need at least.  Without names: the first model of every spec.
`--save` appends the times to aot_time.json, with date, commit and machine.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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
    results: dict[str, Result] = {}
    for model, spec in _models(models):
        found = results[model] = _time(spec, model, chip)
        late = "  over the bound" if found.seconds > BOUND else ""
        times = f"{found.seconds:6.2f} s, {found.processors:6.2f} s of processors"
        click.echo(f"{model:16} {found.kernels:3} kernels {times}{late}")
    if save:
        _save(results, chip)


def _models(names: Sequence[str]) -> list[tuple[str, Path]]:
    """The models of these names, or the first of every spec, with their specs."""
    specs = sorted((ROOT / "specs").glob("*.arch"))
    declared = [(path, list(compiler.read_spec_file(path).module.models)) for path in specs]
    if names:
        return [(model, path) for path, models in declared for model in models if model in names]
    return [(models[0], path) for path, models in declared if models]


def _time(spec: Path, model: str, chip: str) -> Result:
    archc = [sys.executable, "-m", "archc"]
    given = [str(spec), "--model", model]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TRITON_CACHE_DIR": str(Path(folder) / "triton")}
        start, before = time.perf_counter(), _processors()
        build = [*archc, "build", *given, "-o", folder]
        subprocess.run(build, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        compile_ = [*archc, "kernels", *given, "--chip", chip, "--json"]
        # Exit status 1 tells of a kernel that is off, which is not asked for here.
        told = subprocess.run(compile_, cwd=ROOT, env=environment, capture_output=True, check=False).stdout
        return Result(len(json.loads(told)), time.perf_counter() - start, _processors() - before)


def _processors() -> float:
    """Seconds of processors that processes took which this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
