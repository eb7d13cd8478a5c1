"""`archc analyze`: from a spec to the numbers of its models, as tables or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from archc import compiler
from archc.analysis.analysis import Analysis, Setting, analyse
from archc.analysis.context import usual_context
from archc.analysis.devices import Device, find_device
from archc.analysis.roofline import Phase
from archc.compiler import Compilation
from archc.console import output
from archc.errors import ArchcError, did_you_mean
from archc.ir.graph import Graph
from archc.ir.program import most_tokens
from archc.quantities import with_unit
from archc.settings import parse_settings


@dataclass(frozen=True)
class Request:
    """What a user asks for, as it was written.  Without a context it is 4,096, or what the model takes."""

    hardware: str = "h200"
    hardware_file: Path | None = None
    batch: int = 1
    context: int | None = None
    dtype: str = "bfloat16"

    def device(self) -> Device:
        """The device; raises `ArchcError` where there is none of that name."""
        return find_device(self.hardware, self.hardware_file)


@dataclass(frozen=True)
class Analysed:
    """A model's analysis, and the unfused graph that it was made of."""

    analysis: Analysis
    reference: Graph


def analyses(subjects: Sequence[str], settings: tuple[str, ...], request: Request) -> Iterator[Analysed]:
    """Each model of specs, written `SPEC` for all of its models or `SPEC:MODEL`; raises `ArchcError`."""
    device = request.device()
    for subject in subjects:
        path, model = _parts(subject)
        spec = compiler.read_spec_file(path)
        names = compiler.choose_models(spec, model)
        for program in compiler.lower_models(spec, names, parse_settings(settings)):
            yield _analysed(compiler.compile_program(program, spec.rules), request, device)


def the_one(subject: str, settings: tuple[str, ...], request: Request) -> Analysed:
    """The model of `SPEC:MODEL`, or of a `SPEC` that has only one; raises `ArchcError`."""
    path, model = _parts(subject)
    if model is None:
        models = compiler.read_spec_file(path).models
        if len(models) > 1:
            raise ArchcError(f"{path} has several models: write {path}:{models[0]}, or another of them")
    (found,) = analyses([subject], settings, request)
    return found


def _parts(subject: str) -> tuple[Path, str | None]:
    path, colon, model = subject.rpartition(":")
    if not colon or Path(subject).exists():
        return Path(subject), None
    return Path(path), model


def _analysed(compilation: Compilation, request: Request, device: Device) -> Analysed:
    program, reference = compilation.program, compilation.reference
    most = most_tokens(reference)
    context = request.context or usual_context(reference)
    if most and context > most:
        raise ArchcError(f"{program.name} has learned positions for {most:,} tokens, not for {context:,}")
    setting = Setting(request.batch, context, request.dtype, device)
    analysis = analyse(program.name, program.arch, reference, compilation.fused, setting)
    return Analysed(analysis, reference)


def as_json(found: Iterable[Analysis]) -> str:
    """One analysis as an object, several as a list."""
    objects = [each.as_json() for each in found]
    return json.dumps(objects[0] if len(objects) == 1 else objects, indent=2)


def value_lines(analysis: Analysis, keys: Sequence[str]) -> Iterator[str]:
    """`model  key  value` for each dotted key of the JSON; raises `ArchcError` for one that is none."""
    found = analysis.as_json()
    for key in keys:
        value: Any = found
        for word in key.split("."):
            if not isinstance(value, dict) or word not in value:
                known = value if isinstance(value, dict) else ()
                hint = did_you_mean(word, known) or f"known are {', '.join(known) or 'none'}"
                raise ArchcError(f"{analysis.model} has no `{key}`: {hint}")
            value = value[word]
        text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else json.dumps(value)
        yield f"{analysis.model}  {key}  {text}"


def print_analysis(analysis: Analysis) -> None:
    """Print an analysis as tables."""
    console = output()
    setting = analysis.setting
    console.print(f"{analysis.model} ({analysis.arch})", style="bold")
    console.print(_parameters(analysis))
    console.print(_per_token(analysis))
    console.print(_memory(analysis))
    console.print(_roofline(analysis))
    console.print(f"{setting.device.name}: {setting.device.source}")
    for note in analysis.notes:
        console.print(f"note: {note}")
    console.print()


def _table(title: str, *columns: str) -> Table:
    table = Table(columns[0], title=title, title_justify="left")
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _parameters(analysis: Analysis) -> Table:
    counts = analysis.parameters
    table = _table("parameters", "", "number", "share")

    def row(name: str, number: int) -> None:
        table.add_row(name, f"{number:,}", f"{number / (counts.total or 1):.1%}")

    row("total", counts.total)
    row("active", counts.active)
    row("non-embedding", counts.non_embedding)
    table.add_section()
    for role, number in counts.by_role.items():
        row(role, number)
    table.add_section()
    for layer in counts.layers:
        row(f"{layer.count} x {layer.kind}", layer.count * layer.parameters)
    return table


def _per_token(analysis: Analysis) -> Table:
    flops, cache = analysis.flops, analysis.kv_cache
    table = _table(f"one token, in the mean over {flops.context:,}", "", "")
    table.add_row("FLOPs forward", with_unit(flops.per_token, "FLOP"))
    table.add_row("  products with weights", with_unit(flops.weights, "FLOP"))
    table.add_row("  attention over its context", with_unit(flops.attention, "FLOP"))
    table.add_row("FLOPs in training", with_unit(flops.training_per_token, "FLOP"))
    table.add_row("elementwise, not counted above", with_unit(flops.elementwise, "FLOP"))
    table.add_row("bytes it puts into the cache", f"{cache.bytes_per_token:,}")
    if cache.lasting_bytes_per_token < cache.bytes_per_token:
        table.add_row("  once rings are full", f"{cache.lasting_bytes_per_token:,}")
    if cache.state_bytes:
        table.add_row("bytes of states, for all tokens", f"{cache.state_bytes:,}")
    return table


def _memory(analysis: Analysis) -> Table:
    setting, training = analysis.setting, analysis.memory.training
    table = _table("memory", "", "")
    for dtype, needed in analysis.memory.weights.items():
        table.add_row(f"weights in {dtype}", with_unit(needed, "B"))
    table.add_section()
    table.add_row(
        f"cache of {setting.batch:,} x {setting.context:,} tokens", with_unit(analysis.kv_cache.bytes, "B")
    )
    table.add_section()
    table.add_row(f"training: weights in {setting.dtype}", with_unit(training.weights, "B"))
    table.add_row("training: gradients", with_unit(training.gradients, "B"))
    table.add_row("training: Adam", with_unit(training.optimizer, "B"))
    table.add_row("training: activations", with_unit(training.activations, "B"))
    table.add_row("training: activations, layers computed again", with_unit(training.recomputed, "B"))
    return table


def _roofline(analysis: Analysis) -> Table:
    setting, roofline = analysis.setting, analysis.roofline
    title = f"at least: {setting.text}"
    table = _table(title, "", "time", "tokens/s", "FLOPs/byte", "waits for")
    phases = {"prefill": roofline.prefill, "decode": roofline.decode, "training step": roofline.training_step}
    for name, phase in phases.items():
        if phase is not None:
            table.add_row(name, *_row(phase), style="bold")
            for kernel in phase.kernels[:4]:
                times = f"{kernel.count} x {kernel.kind}"
                row = (with_unit(kernel.seconds, "s"), "", f"{kernel.intensity:,.1f}", kernel.bound)
                table.add_row(f"  {times}", *row)
    return table


def _row(phase: Phase) -> tuple[str, str, str, str]:
    rate = f"{phase.tokens_per_second:,.0f}"
    return with_unit(phase.seconds, "s"), rate, f"{phase.intensity:,.1f}", phase.bound
