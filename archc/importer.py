"""`archc import`: from a Hugging Face config to a spec that passes `archc check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from archc import compiler
from archc.compiler import Spec
from archc.errors import ArchcError, SpecError, did_you_mean
from archc.files import write_whole
from archc.interop.config import Config, config_file, read_config, shown
from archc.interop.families import FAMILIES
from archc.interop.family import Family, Value
from archc.interop.nested import text_config
from archc.interop.spec import model_name, spec_text
from archc.interop.tensors import tensors_in

_MODEL = "imported"  # a name for the model until it has its own


@dataclass(frozen=True)
class Imported:
    """A spec that was made, and the standard spec that it imports."""

    text: str
    base: str


def import_model(path: Path) -> Imported:
    """The spec of the model in a directory, or of a config.json; raises `ArchcError`."""
    file = config_file(path)
    whole = read_config(file)
    whole.tensors = tensors_in(file.parent)
    config, root = text_config(whole, FAMILIES)
    family = _family(file, config)
    arguments = family.read(config)
    if config.problems:
        raise ArchcError("\n".join(f"{file}: {problem}" for problem in config.problems))
    name = model_name(file.resolve(), str(config.get("_name_or_path") or ""), family)
    needed = _needed(file, family, arguments)
    return Imported(spec_text(family, name, needed, str(file), root), family.spec)


def _family(file: Path, config: Config) -> Family:
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    known = f"archc imports {', '.join(FAMILIES)}"
    if kind is None:
        raise ArchcError(f'{file} has no "model_type"; {known}')
    hint = did_you_mean(kind, FAMILIES) if isinstance(kind, str) else ""
    raise ArchcError(f"{file}: no import for models of type {shown(kind)}; {hint or known}")


def _needed(file: Path, family: Family, arguments: Mapping[str, Value]) -> dict[str, Value]:
    """The arguments without those that change nothing, since the arch's defaults say the same."""
    spec = compiler.read_spec_text(spec_text(family, _MODEL, arguments, str(file)))
    try:
        (program,) = compiler.lower_models(spec, [_MODEL])
    except SpecError as error:
        reason = error.mistakes[0].text
        raise ArchcError(f"{file}: a {family.model_type} model of these sizes cannot be: {reason}") from None
    needed = list(arguments)
    for name in arguments:
        fewer = [other for other in needed if other != name]
        try:
            if _parameters(spec, fewer) == program.parameters:
                needed = fewer
        except SpecError:
            continue  # the arch has no default, or not one that fits
    return {name: arguments[name] for name in needed}


def _parameters(spec: Spec, names: Sequence[str]) -> dict[str, Any]:
    """All parameters of the arch where the spec's model gives those of some names; raises `SpecError`."""
    model = spec.module.models[_MODEL]
    given = tuple(argument for argument in model.arguments if argument.name in names)
    models = {_MODEL: replace(model, arguments=given)}
    return compiler.model_parameters(replace(spec, module=replace(spec.module, models=models)), _MODEL)


def write_spec(imported: Imported, output: Path, force: bool) -> None:
    """Write a spec; raises `ArchcError` where that would lose another file, unless forced."""
    if output.stem == imported.base:
        raise ArchcError(
            f"{output} would hide `{imported.base}`, which it imports: give the file another name"
        )
    try:
        if not force and output.exists() and output.read_bytes() != imported.text.encode():
            raise ArchcError(f"{output} is there already and differs: name another file, or use --force")
        write_whole(output, imported.text)
    except OSError as error:
        raise ArchcError(f"cannot write {output}: {error.strerror}") from None
