"""`archc kernels`: what the kernels of a model take on chips that need not be there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from archc import compiler
from archc.console import output
from archc.settings import parse_settings
from archc.tuned import read_tables
from archc.verification.chips import CHIPS, Chip
from archc.verification.compiling import Compiling, KernelError, Usage, hash_triton
from archc.verification.launch import Launch
from archc.verification.launches import find_launches


@dataclass(frozen=True)
class _Compiled:
    """A kernel of a model, as a chip has it or cannot have it.

    `variant`: what sets it apart from the model's other kernels of its name.
    """

    launch: Launch
    variant: dict[str, Any]
    result: Usage | KernelError

    @property
    def breaches(self) -> list[str]:
        return [str(self.result)] if isinstance(self.result, KernelError) else self.result.breaches()

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"kernel": self.launch.name, "variant": self.variant}
        told["warps"] = self.launch.warps
        if isinstance(self.result, Usage):
            code = self.result.code
            told |= {"registers": code.registers, "spilled": code.spilled, "shared": code.shared}
            told["tensor_cores"] = code.tensor_cores
        return {**told, "breaches": self.breaches}


def kernels(
    path: Path,
    model: str | None,
    settings: tuple[str, ...],
    table: Path | None,
    chips: Sequence[str],
    dtype: str,
    as_json: bool,
) -> bool:
    """Compile all kernels of a spec's models for chips, and print what each takes; whether nothing is off."""
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 wants to be told its own default
    spec = compiler.read_spec_file(path)
    Thread(target=hash_triton).start()  # a daemon's end would abort a process that ends first
    tuned = read_tables(table)
    console = output()
    told: list[dict[str, Any]] = []
    good = True
    for program in compiler.lower_models(spec, compiler.choose_models(spec, model), parse_settings(settings)):
        compilation = compiler.compile_program(program, spec.rules, tuned=tuned)
        with tempfile.TemporaryDirectory() as folder, Compiling(CHIPS[name] for name in chips) as compiling:
            find_launches(compilation, Path(folder), getattr(torch, dtype), compiling.add)
            for name in chips:
                compiled = _with_variants(compiling.results(CHIPS[name]), CHIPS[name])
                good &= not any(each.breaches for each in compiled)
                if as_json:
                    told += ({"model": program.name, "chip": name, **each.as_json()} for each in compiled)
                else:
                    _print(f"{program.name} for {name}, {dtype}", compiled, console)
    if as_json:
        console.print(json.dumps(told, indent=2), soft_wrap=True)
    return good


def _with_variants(results: Sequence[tuple[Launch, Usage | KernelError]], chip: Chip) -> list[_Compiled]:
    variants = _variants([launch for launch, _ in results], chip)
    pairs = zip(results, variants, strict=True)
    return [_Compiled(launch, variant, result) for (launch, result), variant in pairs]


def _variants(launches: Sequence[Launch], chip: Chip) -> list[dict[str, Any]]:
    """What sets each launch apart from others of its kernel: constants or, if these are equal, divisors."""
    names = [launch.name for launch in launches]
    known = [_known(launch, chip) for launch in launches]
    constants, divisors = [values for values, _ in known], [found for _, found in known]
    variants = [_own(each, _rivals(place, names, constants)) for place, each in enumerate(constants)]
    apart = [_own(each, _rivals(place, names, divisors)) for place, each in enumerate(divisors)]
    return [
        variant | apart[place] if variant in _rivals(place, names, variants) else variant
        for place, variant in enumerate(variants)
    ]


def _own(known: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is not known of all others as well."""
    return {name: value for name, value in known.items() if any(o.get(name, o) != value for o in others)}


def _rivals(place: int, names: Sequence[str], found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was found of the other launches of the same name."""
    return [each for n, each in enumerate(found) if n != place and names[n] == names[place]]


def _known(launch: Launch, chip: Chip) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the compiler knows of arguments: the values of some, and what divides others."""
    names = launch.kernel.arg_names
    _, constants, facts = launch.specialise(chip)
    divisors = {f"{names[n]} % {divisor}": 0 for (n,), found in facts.items() for _, divisor in found}
    return {names[n]: value for (n,), value in constants.items()}, divisors


def _print(title: str, compiled: list[_Compiled], console: Console) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("kernel", overflow="fold")
    table.add_column("where", overflow="fold")
    for column in ("warps", "registers", "shared"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each in compiled:
        where = ", ".join(f"{name} = {value}" for name, value in each.variant.items())
        code = each.result.code if isinstance(each.result, Usage) else None
        taken = (f"{code.registers:,}", f"{code.shared:,}") if code else ("", "")
        verdict = Text("off", "red") if each.breaches else Text("ok")
        name = each.launch.name.removeprefix("_").removesuffix("_kernel")
        table.add_row(name, where, str(each.launch.warps), *taken, verdict)
    console.print(table)
    for each in compiled:
        for text in each.breaches:
            console.print(text, style="red", soft_wrap=True)
    off = sum(bool(each.breaches) for each in compiled)
    console.print(f"{len(compiled)} kernels, {off or 'none'} off")
