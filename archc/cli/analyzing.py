"""`archc analyze` and `archc diff`: what a model costs, and how two differ."""

from __future__ import annotations

from pathlib import Path

import click

from archc.cli import options


@click.command()
@options.spec
@options.model
@options.settings
@click.option(
    "--hardware", default="h200", show_default=True, metavar="NAME", help="The device of the roofline."
)
@click.option(
    "--hardware-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="More devices, in TOML or JSON.",
)
@click.option("--batch", type=int, default=1, show_default=True, help="Sequences at a time.")
@click.option("--context", type=int, help="Tokens of a sequence.  [default: 4096, or what the model takes]")
@click.option("--dtype", default="bfloat16", show_default=True, help="What the model runs in.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, an object for a model; see docs/analyze.md."
)
def analyze(
    spec: Path,
    model: str | None,
    settings: tuple[str, ...],
    hardware: str,
    hardware_file: Path | None,
    batch: int,
    context: int | None,
    dtype: str,
    as_json: bool,
) -> None:
    """Count a model's parameters, memory, cache and FLOPs, and bound its speed on a device.

    All numbers come from the graph that is also compiled.  Devices: h200, h100, a100, mi300x, rtx4090, and
    cpu for the one at hand.

    \b
    Examples:
      archc analyze specs/llama3.arch --model llama3_8b
      archc analyze specs/llama3.arch --model llama3_8b --hardware h100 --batch 64 --context 8192
      archc analyze specs/qwen3.arch --set layers=20 --json
    """
    from archc import analyzer

    request = analyzer.Request(hardware, hardware_file, batch, context, dtype)
    found = analyzer.analyses(spec, model, settings, request)
    if as_json:
        click.echo(analyzer.as_json(found))
        return
    for analysis in found:
        analyzer.print_analysis(analysis)
