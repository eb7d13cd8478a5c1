"""The command line.  Commands import what they need: `check` and `build` touch neither torch nor triton."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import click

from archc import __version__
from archc.errors import ArchcError
from archc.target import TARGETS

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Commands(click.Group):
    """A group whose commands answer a user's mistake with its text and exit status 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ArchcError as error:
            click.echo(str(error), err=True)
            sys.exit(1)


@click.group(cls=_Commands, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="archc")
def main() -> None:
    """From a model specification to a PyTorch package with specialised Triton kernels.

    \b
    Example:
      archc build specs/llama3.arch --model llama3_8b
    """


_spec = click.argument("spec", type=click.Path(path_type=Path))
_specs = click.argument("specs", nargs=-1, type=click.Path(path_type=Path))
_model = click.option("--model", metavar="NAME", help="One model of the spec; all without it.")
_target = click.option(
    "--target",
    type=click.Choice(list(TARGETS)),
    default="cuda",
    show_default=True,
    help="What to write code for.",
)
_set = click.option(
    "--set", "settings", multiple=True, metavar="K=V", help="Give a parameter of the arch another value."
)


@main.command()
@click.argument("specs", nargs=-1, required=True, type=click.Path(path_type=Path))
def check(specs: tuple[Path, ...]) -> None:
    """Report the mistakes in specs, all at once.

    \b
    Example:
      archc check specs/llama3.arch my_model.arch
    """
    from archc import compiler

    failed = False
    for path in specs:
        try:
            count = compiler.check(compiler.read_spec_file(path))
            click.echo(f"{path}: {count} model{'s' if count != 1 else ''}, no mistakes")
        except ArchcError as error:
            click.echo(f"{error}\n", err=True)
            failed = True
    sys.exit(failed)


@main.command()
@click.argument("specs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--check", "only_check", is_flag=True, help="Write nothing; fail when a file would change.")
def fmt(specs: tuple[Path, ...], only_check: bool) -> None:
    """Lay out specs: indentation, spaces, blank lines.  Comments and line breaks stay.

    \b
    Examples:
      archc fmt my_model.arch
      archc fmt --check specs/*.arch
    """
    from archc.frontend.format import format_file

    failed = False
    for path in specs:
        try:
            changes = format_file(path, only_check)
            done = "would change" if only_check else "changed"
            click.echo(f"{path}: {done if changes else 'unchanged'}")
            failed |= changes and only_check
        except ArchcError as error:
            click.echo(f"{error}\n", err=True)
            failed = True
    sys.exit(failed)


@main.command()
@_specs
@click.option(
    "-o",
    "--output",
    default="generated",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where packages go.",
)
@_model
@_target
@_set
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
    only_check: bool,
    force: bool,
) -> None:
    """Write a package for each model of the specs.

    Without SPECS, every package under the output directory is taken again from the spec and options that its
    header records.

    \b
    Examples:
      archc build specs/llama3.arch --model llama3_8b
      archc build specs/llama3.arch --model llama3_8b --set layers=2 -o /tmp/small
      archc build --check
    """
    from archc import freshness

    if not specs and (model or settings):
        raise click.UsageError("--model and --set go with a SPEC")
    request = [*map(str, specs), "-o", str(output), str(model), target, *settings]
    lines = None if only_check else freshness.recall(request)
    if lines is None:
        gc.disable()  # a build is short, and makes many small objects that live to its end
        lines = _build(specs, output, model, target, settings, only_check, force, request)
    for line in lines:
        click.echo(line)


def _build(
    specs: tuple[Path, ...],
    output: Path,
    model: str | None,
    target: str,
    settings: tuple[str, ...],
    only_check: bool,
    force: bool,
    request: list[str],
) -> list[str]:
    from archc import builder, freshness

    jobs = builder.jobs(specs, output, model, target, settings) if specs else builder.recorded_jobs(output)
    if only_check:
        return list(builder.check(jobs))
    lines = list(builder.write(jobs, force))
    files, absent = builder.touched(jobs)
    said = [f"{job.folder}: {builder.UP_TO_DATE}" for job in jobs]
    freshness.remember(request, files, [job.folder for job in jobs], absent, said)
    return lines


@main.command()
@_spec
@_model
@_target
@_set
@click.option("--after", metavar="PASS", help="The stage to print: a pass's name; the last one without it.")
def ir(spec: Path, model: str | None, target: str, settings: tuple[str, ...], after: str | None) -> None:
    """Print the graph of a model after a pass.

    \b
    Examples:
      archc ir specs/llama3.arch --model llama3_8b --after frontend
      archc ir specs/llama3.arch --model llama3_8b --after pack
    """
    from archc import inspection

    click.echo(inspection.print_stage(spec, model, target, settings, after), nl=False)


@main.command()
@_spec
@_model
@_target
@_set
def explain(spec: Path, model: str | None, target: str, settings: tuple[str, ...]) -> None:
    """Tell what was fused, what was not and why, and where rounding was relaxed.

    \b
    Example:
      archc explain specs/llama3.arch --model llama3_8b
    """
    from archc import inspection

    inspection.explain(spec, model, target, settings)


@main.command()
@_spec
@_model
@_set
@click.option("--each-pass", is_flag=True, help="Check the graph after every pass, not only after the last.")
def verify(spec: Path, model: str | None, settings: tuple[str, ...], each_pass: bool) -> None:
    """Hold a model's graph and package to a float64 run, on inputs chosen to trap mistakes.

    \b
    Examples:
      archc verify specs/llama3.arch --model llama3_tiny --each-pass
      archc verify specs/qwen3.arch --model qwen3_8b --set layers=2 --set d=128 --set vocab=1000
    """
    from archc.verification.verify import verify as run

    sys.exit(0 if run(spec, model, settings, each_pass) else 1)


@main.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the spec here, not to stdout.",
)
@click.option("--force", is_flag=True, help="Overwrite a file that holds something else.")
def import_(path: Path, output: Path | None, force: bool) -> None:
    """Make a spec from a Hugging Face model directory or its config.json.

    Every key of the config is accounted for: one that archc cannot honour is an error, never ignored.

    \b
    Examples:
      archc import models/SmolLM2-135M
      archc import models/SmolLM2-135M/config.json -o smollm2_135m.arch
    """
    from archc import importer

    imported = importer.import_model(path)
    if output is None:
        click.echo(imported.text, nl=False)
    else:
        importer.write_spec(imported, output, force)
        click.echo(f"{output}: written")
