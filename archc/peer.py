"""The class of transformers that computes the same as a spec's model: `archc import`, the other way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from archc import compiler
from archc.errors import SpecError
from archc.interop.config import Config
from archc.interop.families import FAMILIES
from archc.interop.family import Family
from archc.interop.spec import spec_text
from archc.ir.hashing import structural_hash
from archc.ir.program import Program

_TWIN = "twin"


@dataclass(frozen=True)
class Peer:
    """The config of which a model could have been imported; None and the reason where there is none."""

    config: dict[str, Any] | None
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
