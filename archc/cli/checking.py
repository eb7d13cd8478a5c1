"""`archc check` and `archc fmt`: what needs no graph."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from archc.errors import ArchcError


@click.command()
@click.argument("specs", nargs=-1, required=True, type=click.Path(path_type=Path))
def check(specs: tuple[Path, ...]) -> None:
    """Report the mistakes in specs, all at once.

    \b
    Example:
      archc check specs/llama3.arch my_model.arch
    """
    from archc import compiler

    mistakes: list[str] = []
    for path in specs:
        try:
            count = compiler.check(compiler.read_spec_file(path))
            click.echo(f"{path}: {count} model{'s' if count != 1 else ''}, no mistakes")
        except ArchcError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ArchcError("\n\n".join(mistakes))


@click.command()
@click.argument("specs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--check", "only_check", is_flag=True, help="Write nothing; fail when a file would change.")
def fmt(specs: tuple[Path, ...], only_check: bool) -> None:
    """Format specs: indentation, spaces, blank lines.  Comments and line breaks stay.

    \b
    Examples:
      archc fmt my_model.arch
      archc fmt --check specs/*.arch
    """
    from archc.frontend.format import format_file

    changed, mistakes = False, []
    for path in specs:
        try:
            changes = format_file(path, only_check)
            done = "would change" if only_check else "changed"
            click.echo(f"{path}: {done if changes else 'unchanged'}")
            changed |= changes
        except ArchcError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ArchcError("\n\n".join(mistakes))
    sys.exit(changed and only_check)
