"""`archc import`."""

from __future__ import annotations

from pathlib import Path

import click

from archc.cli import options


@click.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@options.spec_output
@options.force
def import_(path: Path, output: Path | None, force: bool) -> None:
    """Make a spec from a Hugging Face model's folder or config.json.

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
