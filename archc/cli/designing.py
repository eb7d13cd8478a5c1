"""`archc design`: a spec for a size."""

from __future__ import annotations

from pathlib import Path

import click

from archc.cli import options


@click.command()
@click.option("--params", metavar="N", required=True, type=options.QUANTITY, help="Parameters in all: 8B.")
@click.option(
    "--context",
    metavar="TOKENS",
    type=options.TOKENS,
    default="8K",
    show_default=True,
    help="The longest context; K and M are powers of 1024 here.",
)
@click.option("--tokens", metavar="D", type=options.QUANTITY, help="Training tokens, for the predicted loss.")
@click.option("--vocab", metavar="V", type=click.IntRange(1, 1 << 24), help="The tokenizer's vocabulary.")
@click.option("--moe", is_flag=True, help="A mixture of experts; N counts all of them.")
@options.hardware
@options.hardware_file
@click.option("--name", default="designed", show_default=True, help="The model's name.")
@options.spec_output
@options.force
def design(
    params: float,
    context: int,
    tokens: float | None,
    vocab: int | None,
    moe: bool,
    hardware: str,
    hardware_file: Path | None,
    name: str,
    output: Path | None,
    force: bool,
) -> None:
    """Propose a spec for a number of parameters, with reasons.

    Its comments say why each size is what it is.  The model is a standard decoder, dense or with experts. It
    has the proportions of published models, sizes that suit matrix products and divide well over several
    devices, and the number of parameters asked for.

    \b
    Examples:
      archc design --params 8B
      archc design --params 30B --moe --context 32K
      archc design --params 1.5B --context 32K --vocab 50257 --tokens 1T -o my_model.arch
    """
    from archc import compiler
    from archc.analysis.devices import find_device
    from archc.exploration import designer
    from archc.exploration.proposal import proposal
    from archc.importer import Imported, write_spec

    request = designer.Request(
        params, context, find_device(hardware, hardware_file), tokens, vocab, moe, name
    )
    made = designer.design(request)
    text = proposal(made)
    compiler.check(compiler.read_spec_text(text, str(output or "design.arch")))
    if output is None:
        click.echo(text, nl=False)
    else:
        write_spec(Imported(text, made.shape.spec), output, force)
        click.echo(f"{output}: written")
