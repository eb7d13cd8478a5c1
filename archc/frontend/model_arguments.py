"""What a `model` line gives the parameters of its arch, and what `--set` gives them instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archc.errors import ArchcError, did_you_mean
from archc.frontend import mistakes, syntax
from archc.frontend.arguments import ArgumentMistake, Parameter, match, signature
from archc.frontend.callees import wrong_arguments
from archc.frontend.elsewhere import import_hint
from archc.frontend.resolve import Module
from archc.frontend.unknown_names import SLIP
from archc.ir.sizes import NamedFloat, Size

# Names that generated modules import, and so no constant may have.
RESERVED_CONSTANTS = {"F", "T", "Tensor"}


def unknown_arch(module: Module, model: syntax.Model) -> mistakes.UnknownName:
    """A model of an arch that is not there."""
    known = [name for m in (module, *module.imports.values()) for name in m.archs]
    hint = did_you_mean(model.arch, known, SLIP) or import_hint(model.arch, module, ("arch",))
    hint = hint or did_you_mean(model.arch, known) or "import the spec that defines it"
    return mistakes.UnknownName(model.arch_span, kind="arch", name=model.arch, hint=hint)


def match_model(
    model: syntax.Model, arch: syntax.Arch, overrides: Mapping[str, syntax.Expr]
) -> dict[str, syntax.Argument] | mistakes.WrongArguments:
    """A model's arguments by the arch's parameters, or what is wrong with them."""
    parameters = [Parameter(p.name, p.default is None and p.name not in overrides) for p in arch.params]
    try:
        return match(model.arguments, parameters, signature(arch.name, parameters))
    except ArgumentMistake as mistake:
        return wrong_arguments(model, arch.name, mistake)


def check_overrides(arch: syntax.Arch, overrides: Mapping[str, syntax.Expr]) -> None:
    """Raises `ArchcError` for an override that is no parameter."""
    known = [param.name for param in arch.params]
    for name in overrides:
        if name not in known:
            hint = did_you_mean(name, known) or f"it has {', '.join(known) or 'none'}"
            raise ArchcError(f"arch `{arch.name}` has no parameter `{name}`; {hint}")


def with_origin(value: Any, name: str, constants: set[str], rank: int) -> Any:
    """A parameter's number, remembering the constant that stands for it in generated code."""
    constant = name.upper().lstrip("_") or "P"
    while constant in constants or constant in RESERVED_CONSTANTS:
        constant += "_"
    if isinstance(value, int) and not isinstance(value, bool):
        constants.add(constant)
        return Size.named(constant, int(value), rank)
    if type(value) is float:
        constants.add(constant)
        return NamedFloat.named(constant, value)
    return value
