"""A spec with other shapes of a model: the model's own arguments with some of them changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archc import compiler
from archc.compiler import Spec
from archc.errors import ArchcError, Reporter, Source
from archc.frontend.format import format_spec
from archc.interop.spec import model_lines, root_text, value_text
from archc.ir.op import Op
from archc.ir.program import Program


@dataclass(frozen=True)
class Original:
    """The model that variants are of; `settings` are arguments that were given on the command line."""

    spec: Spec
    program: Program
    settings: Mapping[str, str]

    @property
    def arch_file(self) -> Path:
        """The spec that defines the model's arch."""
        found = self.spec.module.find_arch(self.program.arch)
        assert found is not None
        assert found[1].path is not None
        return found[1].path

    def changed(self, arguments: Mapping[str, str]) -> Program:
        """The model with other arguments; raises `SpecError`."""
        settings = {**self.settings, **arguments}
        (program,) = compiler.lower_models(self.spec, [self.program.name], settings)
        return program


@dataclass(frozen=True)
class Variant:
    """A model to write: its name, a comment on it, and the arguments that it has in another way."""

    name: str
    comment: str
    changed: Mapping[str, str]


def variants_text(original: Original, variants: Sequence[Variant], output: Path | None) -> str:
    """A spec of variants of a model; raises `ArchcError` where no import would find its arch.

    output: where the text is to lie; an arch that does not come with archc is imported from beside it
    """
    spec, program = original.spec, original.program
    found = spec.module.find_arch(program.arch)
    assert found is not None
    path = original.arch_file
    if not found[1].source.standard and (output is None or output.resolve().parent != path.resolve().parent):
        raise ArchcError(f"the arch {program.arch} is in {path}: write the models beside it, with -o")
    lines = [f"import {path.stem}"]
    for each in variants:
        arguments = [f"{key} = {text}" for key, text in {**_given(original), **each.changed}.items()]
        lines += [
            "",
            f"# {each.comment}",
            *model_lines(
                f"model {each.name} = {program.arch}", arguments, root_text(program.root, program.replaced)
            ),
        ]
    text = "\n".join([*lines, ""])
    return format_spec(Source("variants", text), Reporter()) or text


def _given(original: Original) -> dict[str, str]:
    """The arguments of the model's own line, as values: the names in them may mean nothing elsewhere."""
    program = original.program
    order = list(program.parameters)
    written = original.spec.module.models[program.name].arguments
    names = [argument.name or order[place] for place, argument in enumerate(written)]
    return {name: _text(program.parameters[name]) for name in (*names, *original.settings)}


def _text(value: Any) -> str:
    return value.name if isinstance(value, Op) else value_text(value)
