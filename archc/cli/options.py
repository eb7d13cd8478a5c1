"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from archc.errors import ArchcError
from archc.target import TARGETS
from archc.tuned import DTYPES

spec = click.argument("spec", type=click.Path(path_type=Path))
specs = click.argument("specs", nargs=-1, type=click.Path(path_type=Path))
model = click.option("--model", metavar="NAME", help="Only this model of the spec.  [all]")
target = click.option(
    "--target",
    type=click.Choice(list(TARGETS)),
    default="cuda",
    show_default=True,
    help="The device to write code for.",
)
settings = click.option(
    "--set", "settings", multiple=True, metavar="K=V", help="Set a parameter of the arch."
)
dtype = click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="bfloat16",
    show_default=True,
    help="The dtype the model runs in.",
)
hardware = click.option(
    "--hardware", default="h200", show_default=True, metavar="NAME", help="The roofline's device."
)
hardware_file = click.option(
    "--hardware-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="More devices, in TOML or JSON.",
)
table = click.option(
    "--table",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Measurements of `archc tune`, in addition to archc's own.",
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


class _Tokens(click.ParamType[int]):
    """`8192`, `128K`: K and M are powers of 1024, as in specs."""

    name = "tokens"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        digits, unit = str(value)[:-1], {"K": 1 << 10, "M": 1 << 20}.get(str(value)[-1:].upper())
        text = digits if unit else str(value)
        if not (text.isascii() and text.isdigit() and 0 < int(text) * (unit or 1) <= 1 << 40):
            self.fail(f"`{value}` is no number of tokens: write 8192 or 128K", param, ctx)
        return int(text) * (unit or 1)


QUANTITY = _Quantity()
TOKENS = _Tokens()
spec_output = click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the spec here, not to stdout.",
)
force = click.option("--force", is_flag=True, help="Overwrite a file that holds something else.")
