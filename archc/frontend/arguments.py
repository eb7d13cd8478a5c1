"""Matching the arguments of a call to parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.errors import did_you_mean
from archc.frontend import syntax
from archc.frontend.values import counted


class ArgumentMistake(Exception):
    """Arguments that do not fit; the text goes on from the callee's name.  `argument` is the one at fault."""

    def __init__(self, fault: str, hint: str, argument: syntax.Argument | None = None):
        super().__init__(fault)
        self.hint = hint
        self.argument = argument


@dataclass(frozen=True)
class Parameter:
    """`by_name` is given by name only."""

    name: str
    required: bool
    by_name: bool = False


def match(
    arguments: Sequence[syntax.Argument], parameters: Sequence[Parameter], signature: str
) -> dict[str, syntax.Argument]:
    """The argument for each parameter that was given one; raises `ArgumentMistake`."""
    names = [parameter.name for parameter in parameters]
    given = _match_positional(arguments, parameters, signature)
    for argument in arguments:
        if argument.name is None:
            continue
        if argument.name not in names:
            hint = did_you_mean(argument.name, names) or f"it is {signature}"
            raise ArgumentMistake(f"has no parameter `{argument.name}`", hint, argument)
        if argument.name in given:
            raise ArgumentMistake(f"is given `{argument.name}` twice", f"it is {signature}", argument)
        given[argument.name] = argument
    missing = [p.name for p in parameters if p.required and p.name not in given]
    if missing:
        raise ArgumentMistake(f"needs {', '.join(f'`{name}`' for name in missing)}", f"it is {signature}")
    return given


def _match_positional(
    arguments: Sequence[syntax.Argument], parameters: Sequence[Parameter], signature: str
) -> dict[str, syntax.Argument]:
    names = [parameter.name for parameter in parameters if not parameter.by_name]
    positional = [argument for argument in arguments if argument.name is None]
    if len(positional) > len(names):
        fault = f"takes at most {counted(len(names), 'argument')} by position, not {len(positional)}"
        raise ArgumentMistake(fault, f"it is {signature}", positional[len(names)])
    return dict(zip(names, positional, strict=False))


def signature(name: str, parameters: Sequence[Parameter], first: str = "") -> str:
    """`rms_norm(x, eps, offset = ...)`; `first` stands for any number of arguments in front."""
    shown = [p.name if p.required else f"{p.name} = ..." for p in parameters]
    return f"{name}({', '.join([first, *shown] if first else shown)})"
