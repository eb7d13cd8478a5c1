"""`archc ir` and `archc explain`: what the compiler did to a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from archc import compiler
from archc.codegen.kernels.attention.attention_plan import AttentionKernel
from archc.codegen.kernels.kernel_plan import Kernel
from archc.compiler import Compilation
from archc.console import output
from archc.errors import ArchcError, did_you_mean
from archc.ir.op import Trait
from archc.ir.printer import print_graph
from archc.ir.program import Program
from archc.ir.rule import Rule, rule_of
from archc.passes.context import Context, place_of
from archc.passes.pipeline import PASSES, stages
from archc.settings import parse_settings
from archc.target import TARGETS
from archc.tuned import Entry, read_tables
from archc.tuning.choice import gpu_at_hand, installed_triton, measured

_PROMPT = 4096  # tokens


def _programs(
    path: Path, model: str | None, settings: tuple[str, ...]
) -> tuple[list[Program], tuple[Rule, ...]]:
    spec = compiler.read_spec_file(path)
    names = compiler.choose_models(spec, model)
    return compiler.lower_models(spec, names, parse_settings(settings)), spec.rules


def print_stage(
    path: Path, model: str | None, target: str, settings: tuple[str, ...], after: str | None
) -> str:
    """The graphs of models after a pass; raises `ArchcError` for an unknown one."""
    known = ["frontend", *(each.name for each in PASSES)]
    if after is not None and after not in known:
        hint = did_you_mean(after, known)
        raise ArchcError(
            f"no pass `{after}`; {hint or 'the passes are'} {'' if hint else ', '.join(known)}".strip()
        )
    programs, rules = _programs(path, model, settings)
    texts: list[str] = []
    for program in programs:
        reached = dict(stages(program.graph, Context(rules, TARGETS[target])))
        texts.append(print_graph(reached[after or known[-1]]))
    return "\n".join(texts)


def explain(
    path: Path, model: str | None, target: str, settings: tuple[str, ...], table: Path | None = None
) -> None:
    """Print what fired, what was missed with reasons, and what else the passes did."""
    programs, rules = _programs(path, model, settings)
    tuned = read_tables(table)
    console = output()
    for program in programs:
        _explain(compiler.compile_program(program, rules, TARGETS[target], tuned), console)


def _explain(compilation: Compilation, console: Console) -> None:
    report = compilation.report
    console.print(f"{compilation.program.name} for {compilation.context.target.name}", style="bold")
    fired = Table("fusion", "where", "times", "relaxation", title="fused", title_justify="left")
    for each in report.fusions():
        fired.add_row(each.rule, each.place, str(each.count), ", ".join(each.relaxations))
    console.print(fired if report.fired else "nothing was fused")
    if report.missed:
        missed = Table("fusion", "where", "reason", title="missed", title_justify="left")
        for miss in report.misses():
            missed.add_row(miss.rule, miss.place, miss.reason)
        console.print(missed)
    for remark in report.remarks:
        console.print(f"{remark.pass_name}: {remark.text}")
    planner = compilation.planner
    for text in _without_kernels(compilation):
        console.print(f"no kernel: {text}")
    if (node := planner.unpacked_by) is not None:
        what = f"`{node.op.name}` ({place_of(node)}) does not tell apart those that share one"
        console.print(f"documents: they do not stay in their row: {what}")
    for relaxation, meaning in report.relaxations().items():
        console.print(f"{relaxation}: {meaning}")
    _explain_measured(measured(planner.kernels, compilation.tuned), console)
    console.print()


def _without_kernels(compilation: Compilation) -> list[str]:
    """What reads other tokens in PyTorch's own ops though the target has kernels."""
    if "recurrence" not in compilation.context.target.families:
        return []
    nodes = [node for part in compilation.fused.walk() for node in part.nodes() if node.op.past]
    plain = [node for node in nodes if not (rule_of(node) or node.op.module or node.op.has(Trait.VIEW))]
    told = [f"`{node.op.name}` ({place_of(node)}) is PyTorch's own ops" for node in plain]
    how = "of whole sequences is PyTorch's own ops, for some queries at a time"
    told += [
        f"`{node.op.name}` ({place_of(node)}) {how}"
        for new in (_PROMPT, math.inf)  # with a cache, and without
        for part, _ in compilation.fused.runs(new=new)
        for node in part.nodes()
        if node.op.past and rule_of(node) and _is_in_pieces(compilation.planner.plan_of(part, node))
    ]
    return list(dict.fromkeys(told))


def _is_in_pieces(kernel: Kernel) -> bool:
    """Whether whole sequences have no kernel for an attention that PyTorch's own has not either."""
    return isinstance(kernel, AttentionKernel) and bool(kernel.plain) and kernel.flash is None


def _explain_measured(entries: Sequence[Entry], console: Console) -> None:
    """The linear maps that have kernels because these were faster, and why that may not hold here."""
    if not entries:
        return
    table = Table("weight", "rows", "after", "us", "else", "tile", title="linear maps", title_justify="left")
    for entry in entries:
        problem = entry.problem
        rows = "1" if problem.rows == 1 else f"2 to {problem.rows}"
        times = (f"{entry.microseconds:.1f}", f"{entry.library:.1f}")
        table.add_row(f"{problem.outputs} x {problem.inputs}", rows, problem.after, *times, str(entry.tile))
    console.print(table)
    gpu, triton = gpu_at_hand(), installed_triton()
    for source in dict.fromkeys(entry.provenance for entry in entries):
        doubts = source.doubts(gpu, triton)
        console.print(f"measured on {source}{f'; {doubts}: archc tune measures again' if doubts else ''}")
