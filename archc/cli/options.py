"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from archc.errors import ArchcError
from archc.target import TARGETS

spec = click.argument("spec", type=click.Path(path_type=Path))
specs = click.argument("specs", nargs=-1, type=click.Path(path_type=Path))
model = click.option("--model", metavar="NAME", help="One model of the spec; all without it.")
target = click.option(
    "--target",
    type=click.Choice(list(TARGETS)),
    default="cuda",
    show_default=True,
    help="What to write code for.",
)
settings = click.option(
    "--set", "settings", multiple=True, metavar="K=V", help="Give a parameter of the arch another value."
)


class _Quantity(click.ParamType[float]):
    """`8B`, `15T`, `1e24`."""

    name = "amount"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from archc.quantities import parse_quantity

        try:
            return parse_quantity(str(value))
        except ArchcError as error:
            self.fail(str(error), param, ctx)


QUANTITY = _Quantity()
