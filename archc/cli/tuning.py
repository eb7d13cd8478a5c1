"""`archc tune`: which kernels are worth having on this machine's GPU."""

from __future__ import annotations

from pathlib import Path

import click

from archc.cli import options


@click.command()
@options.spec
@options.model
@options.settings
@options.dtype
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="The total time it may take.",
)
@click.option(
    "--table",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The table to update.  [archc's own]",
)
def tune(
    spec: Path,
    model: str | None,
    settings: tuple[str, ...],
    dtype: str,
    budget: float,
    table: Path | None,
) -> None:
    """Measure the linear maps of decoding on this machine's GPU.

    They go to the table that builds read.

    Each weight of a model is timed with 1 row and with 16, with PyTorch and with kernels of different tiles,
    the largest weights first; then, for 1 row, together with the norm or activation before it, beside both
    one after the other.  A build then uses a kernel where it was faster, and PyTorch's linear map, or two
    kernels, elsewhere.  The table records the GPU, the releases and the day of each measurement.

    \b
    Examples:
      archc tune specs/llama3.arch --model llama3_8b
      archc tune my_model.arch --budget 60 --table h100.json
      archc build my_model.arch --table h100.json
    """
    from archc.tuning.command import tune as run

    run(spec, model, settings, dtype, budget, table)
