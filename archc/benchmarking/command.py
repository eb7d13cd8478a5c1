"""What `archc bench` does with results: prints them, writes them, draws them."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from archc.benchmarking.bench import Options, bench
from archc.benchmarking.plot import draw
from archc.benchmarking.results import Result, write_json
from archc.benchmarking.table import print_result
from archc.console import output
from archc.errors import ArchcError
from archc.plotting import check_picture


def run(
    spec: Path, model: str | None, options: Options, json_file: Path | None, plot: Path | None
) -> list[Result]:
    """Bench a spec's models; files are written after each, so that what was measured is never lost."""
    for file in (json_file, plot):
        _check_folder(file)
    if plot:
        check_picture(plot)
    console = output()
    results: list[Result] = []
    with Console(stderr=True, markup=False, highlight=False).status("") as status:
        for result in bench(spec, model, options, status.update):
            results.append(result)
            print_result(result, console)
            if json_file:
                write_json(results, json_file)
            if plot:
                draw(results, plot)
    return results


def _check_folder(file: Path | None) -> None:
    """Raise `ArchcError` before anything is measured where a file could not be written afterwards."""
    if file is not None and not os.access(file.parent, os.W_OK):
        raise ArchcError(f"cannot write {file}: there is no such folder, or it is not open for writing")
