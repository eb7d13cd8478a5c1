"""`archc ir`, `explain`, `verify` and `kernels`: what became of a model, and whether it is right."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import click

from archc.cli import options
from archc.verification.chips import CHIPS


@click.command()
@options.spec
@options.model
@options.target
@options.settings
@click.option("--after", metavar="PASS", help="The stage to print: the name of a pass.  [the last]")
def ir(spec: Path, model: str | None, target: str, settings: tuple[str, ...], after: str | None) -> None:
    """Print the graph of a model after a pass.

    \b
    Examples:
      archc ir specs/llama3.arch --model llama3_8b --after frontend
      archc ir specs/llama3.arch --model llama3_8b --after pack
    """
    from archc import inspection

    click.echo(inspection.print_stage(spec, model, target, settings, after), nl=False)


@click.command()
@options.spec
@options.model
@options.target
@options.settings
@options.table
def explain(
    spec: Path, model: str | None, target: str, settings: tuple[str, ...], table: Path | None
) -> None:
    """Show what was fused, and what was not and why.

    Also where rounding was relaxed, what the cache keeps, what has no kernel, and which measurements
    were used.

    \b
    Example:
      archc explain specs/llama3.arch --model llama3_8b
    """
    from archc import inspection

    inspection.explain(spec, model, target, settings, table)


@click.command()
@options.spec
@options.model
@options.settings
@click.option(
    "--each-pass",
    is_flag=True,
    help="Check the graph after every pass that changes it, not only after the last.",
)
def verify(spec: Path, model: str | None, settings: tuple[str, ...], each_pass: bool) -> None:
    """Compare a model's graph and package with a float64 run.

    The inputs are chosen to trap mistakes.

    \b
    Examples:
      archc verify specs/llama3.arch --model llama3_tiny --each-pass
      archc verify specs/qwen3.arch --model qwen3_8b --set layers=2 --set d=128 --set vocab=1000
    """
    from archc.verification.verify import verify as run

    sys.exit(0 if run(spec, model, settings, each_pass) else 1)


@click.command()
@options.spec
@options.model
@options.settings
@options.table
@click.option(
    "--chip",
    "chips",
    multiple=True,
    type=click.Choice(list(CHIPS)),
    default=["sm_90"],
    show_default=True,
    help="The chip to compile for; may be repeated.",
)
@options.dtype
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def kernels(
    spec: Path,
    model: str | None,
    settings: tuple[str, ...],
    table: Path | None,
    chips: tuple[str, ...],
    dtype: str,
    as_json: bool,
) -> None:
    """Compile all kernels of a model for chips, present or not.

    Shows the resources that each needs: registers are per thread, shared memory is in bytes per program.  The
    exit status is 1 if a kernel does not fit, spills registers, moves less than 16 bytes at a time although
    its rows allow it, or computes a large product without the tensor cores.

    \b
    Examples:
      archc kernels specs/llama3.arch --model llama3_8b
      archc kernels specs/gpt_oss.arch --model gpt_oss_20b --chip sm_100 --chip gfx942
    """
    gc.disable()  # what PyTorch is made of lives to the end, and would be looked through again and again
    from archc.verification.kernels import kernels as run

    sys.exit(0 if run(spec, model, settings, table, chips, dtype, as_json) else 1)
