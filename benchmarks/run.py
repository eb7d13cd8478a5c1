"""Everything that docs/benchmarks.md shows, on the device at hand.

    python benchmarks/run.py [--budget SECONDS] [--device NAME] [--model NAME]...

Each model is timed by `archc bench` within its budget.  Figures go to benchmarks/results/DEVICE/MODEL.json, a
plot beside them, and the tables into the device's section of docs/benchmarks.md, which is made of all figures
that are there; so what `archc bench --json` wrote into that folder is shown as well.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from archc.benchmarking.bench import bench, read_options
from archc.benchmarking.markdown import page
from archc.benchmarking.plot import draw
from archc.benchmarking.results import read_json, write_json
from archc.benchmarking.scale import choose_device
from archc.benchmarking.table import print_result
from archc.console import output
from archc.errors import ArchcError

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
BLOCKS = ("moe_block",)  # parts of models, which scripts of these names time
MODELS = {"smollm2_135m": "smollm2", "llama3_2_1b": "llama3", "qwen3_8b": "qwen3", "llama3_8b": "llama3"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--budget", default=600.0, show_default=True, help="Seconds for each model.")
@click.option("--device", help="cpu or cuda; the GPU, if there is one, without it.")
@click.option("--model", "models", multiple=True, type=click.Choice(list(MODELS)), help="All without it.")
@click.option("--layers", type=int, help="How many layers; all that fit without it.")
def main(budget: float, device: str | None, models: tuple[str, ...], layers: int | None) -> None:
    """Time the models of docs/benchmarks.md beside their peers, and write the page.

    \b
    Examples:
      python benchmarks/run.py
      python benchmarks/run.py --model smollm2_135m --budget 120
    """
    try:
        kind = choose_device(device).type
        folder = ROOT / "benchmarks" / "results" / kind
        folder.mkdir(parents=True, exist_ok=True)
        options = read_options((), budget, layers, None, device)
        for name in models or MODELS:
            spec = ROOT / "specs" / f"{MODELS[name]}.arch"
            (result,) = bench(spec, name, options, lambda line: click.echo(line, err=True))
            print_result(result, output())
            write_json([result], folder / f"{name}.json")
            draw([result], folder / f"{name}.svg")
    except ArchcError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    write_page(PAGE, ROOT / "benchmarks" / "results")


def write_page(path: Path, folder: Path) -> None:
    """Write each device's section of the page again, from the figures that are there."""
    path.write_text(_SECTION.sub(lambda found: _section(found[1], folder / found[1]), path.read_text()))


_SECTION = re.compile(r"<!-- results: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def _section(kind: str, folder: Path) -> str:
    known = [folder / f"{name}.json" for name in (*MODELS, *BLOCKS)]
    others = sorted(set(folder.glob("*.json")) - set(known))
    found = [result for path in (*known, *others) for result in _read(path)]
    text = page(found) if found else "None yet.\n"
    return f"<!-- results: {kind} -->\n{text}<!-- end -->"


def _read(path: Path) -> list:
    return read_json(path) if path.exists() else []


if __name__ == "__main__":
    main()
