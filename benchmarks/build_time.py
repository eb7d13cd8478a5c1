"""How long `archc build` takes, as whole processes from interpreter start to exit.

    python benchmarks/build_time.py [--runs 11] [--save]

Three questions, each with its bound: a cold build of llama3_8b (0.6 s on two cores), the same with 1,600
layers against 32 (1.3 times), and a build where nothing has changed (0.25 s).  What archc keeps for later,
the tables of its grammar, its compiled templates and the syntax trees of specs, is made by the first build of
a machine: that one is timed by itself.  `--save` appends the medians to build_time.json, with date, commit
and machine.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
HISTORY = Path(__file__).with_suffix(".json")
BUILD = [sys.executable, "-m", "archc", "build", str(ROOT / "specs" / "llama3.arch"), "--model", "llama3_8b"]


@click.command()
@click.option("--runs", default=11, show_default=True, help="Counted runs of each; one more comes first.")
@click.option("--save", is_flag=True, help="Append the medians to build_time.json.")
def main(runs: int, save: bool) -> None:
    """Time whole `archc build` processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        medians = {
            "start of the interpreter": _median(runs, [sys.executable, "-c", "pass"], folder, fresh=False),
            "the first on a machine": _median(runs, BUILD, folder, fresh=True, uncached=True),
            "cold": _median(runs, BUILD, folder, fresh=True),
            "cold, 1,600 layers": _median(runs, [*BUILD, "--set", "layers=1600"], folder, fresh=True),
            "nothing changed": _median(runs, BUILD, folder, fresh=False),
        }
    ratio = medians["cold, 1,600 layers"] / medians["cold"]
    for label, seconds in medians.items():
        click.echo(f"{label:28} {seconds:6.3f} s")
    click.echo(f"{'1,600 layers against 32':28} {ratio:6.2f} times")
    if save:
        _save(medians, ratio, runs)


def _median(runs: int, command: list[str], folder: Path, fresh: bool, uncached: bool = False) -> float:
    """The median wall time; `fresh` removes what was built, `uncached` what archc keeps between runs."""
    cache = folder / "cache"
    environment = {**os.environ, "ARCHC_CACHE_DIR": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    times = []
    for run in range(runs + 1):
        output = folder / "generated"
        if fresh:
            shutil.rmtree(output, ignore_errors=True)
        if uncached:
            shutil.rmtree(cache, ignore_errors=True)
        start = time.perf_counter()
        subprocess.run(
            [*command, *_output(command, output)], check=True, env=environment, stdout=subprocess.DEVNULL
        )
        if run:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _output(command: list[str], output: Path) -> list[str]:
    return ["-o", str(output)] if "archc" in command else []


def _save(medians: dict[str, float], ratio: float, runs: int) -> None:
    history = json.loads(HISTORY.read_text()) if HISTORY.exists() else []
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    history.append(
        {
            "date": datetime.date.today().isoformat(),
            "commit": commit.stdout.strip(),
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "runs": runs,
            "seconds": {label: round(seconds, 3) for label, seconds in medians.items()},
            "1,600 layers against 32": round(ratio, 2),
        }
    )
    HISTORY.write_text(json.dumps(history, indent=2) + "\n")


if __name__ == "__main__":
    main()
