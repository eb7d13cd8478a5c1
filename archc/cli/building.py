"""`archc build`."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archc.cli import options

if TYPE_CHECKING:
    from archc.builder import Job


@click.command()
@options.specs
@click.option(
    "-o",
    "--output",
    default="generated",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where packages go.",
)
@options.model
@options.target
@options.settings
@options.table
@click.option(
    "--check", "only_check", is_flag=True, help="Write nothing; fail when a package is not up to date."
)
@click.option("--force", is_flag=True, help="Overwrite files that were edited by hand.")
def build(
    specs: tuple[Path, ...],
    output: Path,
    model: str | None,
    target: str,
    settings: tuple[str, ...],
    table: Path | None,
    only_check: bool,
    force: bool,
) -> None:
    """Write a package for each model of the specs.

    Without SPECS, every package under the output directory is rebuilt from the spec and options that its
    header records.

    \b
    Examples:
      archc build specs/llama3.arch --model llama3_8b
      archc build specs/llama3.arch --model llama3_8b --set layers=2 -o /tmp/small
      archc build --check
    """
    from archc import freshness

    if not specs and (model or settings or table):
        raise click.UsageError("--model, --set and --table go with a SPEC")
    request = [*map(str, specs), "-o", str(output), str(model), target, str(table), *settings]
    lines = None if only_check else freshness.recall(request)
    if lines is None:
        gc.disable()  # a build is short, and makes many small objects that live to its end
        from archc import builder

        if specs:
            jobs = builder.jobs(specs, output, model, target, settings, table)
        else:
            jobs = builder.recorded_jobs(output)
        lines = list(builder.check(jobs)) if only_check else _write(jobs, force, request)
    for line in lines:
        click.echo(line)


def _write(jobs: list[Job], force: bool, request: list[str]) -> list[str]:
    """Build packages, and remember that; what to say of them."""
    from archc import builder, freshness

    notes = list(builder.notes(jobs))
    written = list(builder.write(jobs, force))
    digests = {path: digest for package in written for path, digest in package.digests.items()}
    said = [f"{job.folder}: {builder.UP_TO_DATE}" for job in jobs]
    freshness.remember(request, digests, [job.folder for job in jobs], builder.absent_files(jobs), said)
    return [*notes, *map(str, written)]
