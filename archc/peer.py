"""The class of transformers that computes the same as a spec's model: `archc import`, the other way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archc import compiler
from archc.errors import ArchcError, SpecError
from archc.interop.config import Config, config_file, read_values
from archc.interop.families import FAMILIES
from archc.interop.family import Family
from archc.interop.spec import spec_text
from archc.ir.hashing import structural_hash
from archc.ir.program import Program

_TWIN = "twin"
_LAYERS = "num_hidden_layers"


@dataclass(frozen=True)
class Peer:
    """The config of which a model could have been imported; None and the reason where there is none."""

    config: Mapping[str, Any] | None
    reason: str = ""


def find_peer(program: Program) -> Peer:
    """The peer of a model.

    A config counts only if the graph that `archc import` makes of it is the model's own, so that both compute
    the same, whatever the arch is called and whoever wrote it.
    """
    families = [family for family in FAMILIES.values() if family.arch == program.arch]
    if not families:
        return Peer(None, f"no family that archc imports from transformers has the arch {program.arch}")
    wanted = structural_hash(program.graph)
    for family in families:
        config = _written(family, program)
        if config is not None and _graph_hash(family, config) == wanted:
            return Peer(config)
    names = " or ".join(family.model_type for family in families)
    return Peer(None, f"no config of type {names} is imported as this model")


def _written(family: Family, program: Program) -> dict[str, Any] | None:
    """A config of the model's parameters; None where its arch has others than the family's."""
    if not set(family.parameters) <= set(program.parameters):
        return None
    return family.write(program.parameters)


def _graph_hash(family: Family, config: dict[str, Any]) -> str:
    """The hash of the graph that a config is imported as; "" where it is none."""
    read = Config(config)
    arguments = family.read(read)
    if read.problems:
        return ""
    spec = compiler.read_spec_text(spec_text(family, _TWIN, arguments, "a config"))
    try:
        (twin,) = compiler.lower_models(spec, [_TWIN])
    except SpecError:
        return ""
    return structural_hash(twin.graph)


def read_peer_config(path: Path) -> dict[str, Any]:
    """The config that a user names as a model's peer; raises `ArchcError` where it names no class."""
    file = config_file(path)
    values = read_values(file)
    for key in ("model_type", "architectures"):
        if not values.get(key):
            raise ArchcError(f'{file} has no "{key}", by which transformers would find the class')
    return values


def with_layers(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """A config with as many layers; a list that says something of each layer becomes as long."""
    before = config.get(_LAYERS)
    kept = {
        key: value[:layers] if isinstance(value, list) and len(value) == before else value
        for key, value in config.items()
    }
    return {**kept, _LAYERS: layers} if before else kept
