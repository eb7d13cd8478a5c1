"""The whole road, from a spec file to a package's files: joins parts that know nothing of one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archc import resources
from archc.errors import ArchcError, Mistake, Reporter, Source, Span, did_you_mean
from archc.frontend import mistakes, syntax
from archc.frontend.fusions import check_fusion_names, rules_of
from archc.frontend.kept_trees import tree_of
from archc.frontend.lower import lower, lower_parameters
from archc.frontend.lowerer import Budget
from archc.frontend.names import check_arguments, check_names
from archc.frontend.resolve import Loader, Module
from archc.ir.blind import blind_attentions
from archc.ir.decoding import decodes, no_generation
from archc.ir.graph import Graph
from archc.ir.program import Expectation, Program
from archc.ir.rule import Rule
from archc.passes.clean import unread_weights
from archc.passes.context import Context
from archc.passes.pipeline import run_passes, run_reference_passes
from archc.passes.report import Report
from archc.target import CUDA, Target
from archc.tuned import Tuned, read_tables

if TYPE_CHECKING:
    from archc.codegen.emit import Origin
    from archc.codegen.kernel_planner import KernelPlanner
    from archc.codegen.plan import Package, ReportPlan


@dataclass(frozen=True)
class Spec:
    """A spec file that was read, with the fusions that hold for it.

    `found` are mistakes that can be told without lowering a model; they are raised together with the others.
    """

    module: Module
    rules: tuple[Rule, ...]
    found: tuple[Mistake, ...] = ()

    @property
    def models(self) -> list[str]:
        return list(self.module.models)


@dataclass(frozen=True)
class Compilation:
    """A model after all passes.

    program:   as the spec says it
    fused:     the graph that model.py is written from
    reference: the graph that reference.py is written from
    tuned:     what was measured on GPUs, by which some kernels are chosen
    """

    program: Program
    fused: Graph
    reference: Graph
    context: Context
    tuned: Tuned

    @property
    def report(self) -> Report:
        return self.context.report

    @cached_property
    def planner(self) -> KernelPlanner:
        """What plans the kernels of its package."""
        from archc.codegen.kernel_planner import KernelPlanner

        return KernelPlanner(self.program, self.fused, self.reference, self.context.target, self.tuned)


def read_spec_file(path: Path, name: str | None = None) -> Spec:
    """Read a spec and what it imports; raises `SpecError` with its syntax mistakes, or `ArchcError`."""
    reporter = Reporter()
    return _checked(Loader(reporter).load(path, name), reporter)


def read_spec_text(text: str, name: str = "<text>") -> Spec:
    """Read a spec from a string; it imports standard specs only."""
    reporter = Reporter()
    return _checked(Loader(reporter).load_text(Source(name, text)), reporter)


def _checked(module: Module | None, reporter: Reporter) -> Spec:
    if module is None or not module.complete:
        module = reporter.result(module)
    own = [rule for each in module.with_imports() for rule in rules_of(each, reporter)]
    names = {name for each in module.with_imports() for name in each.fusions}
    standard = [rule for rule in standard_rules() if rule.name not in names]
    check_fusion_names(module, standard_rules(), reporter)
    check_names(module, names | {rule.name for rule in standard}, reporter)
    return Spec(module, (*standard, *own), reporter.mistakes)


@cache
def standard_rules() -> tuple[Rule, ...]:
    """The fusions of specs/fusions.arch."""
    reporter = Reporter()
    module = reporter.result(Loader(reporter).load(resources.resource_dir("specs") / "fusions.arch"))
    return reporter.result(tuple(rules_of(module, reporter)))


def lower_models(
    spec: Spec, names: Iterable[str], settings: Mapping[str, str] | None = None
) -> list[Program]:
    """The programs of models; raises `SpecError` with the mistakes of all of them."""
    overrides = {name: _expression(name, text) for name, text in (settings or {}).items()}
    reporter, budget = Reporter(spec.found), Budget()
    check_arguments(spec.module, list(overrides.values()), reporter)
    programs: list[Program | None] = []
    for name in names:
        if not (budget.is_spent or reporter.is_full):
            programs.append(lower(spec.module, name, reporter, overrides, budget))
            _check_weights(programs[-1], reporter)
            _check_sight(programs[-1], reporter)
    reporter.raise_if_any()
    return [program for program in programs if program is not None]


def model_parameters(spec: Spec, name: str) -> dict[str, Any]:
    """What the parameters of a model's arch are, without its graph; raises `SpecError`."""
    reporter = Reporter(spec.found)
    return reporter.result(lower_parameters(spec.module, name, reporter))


def _check_weights(program: Program | None, reporter: Reporter) -> None:
    """Report weights that the package would not have, once for all of which one value is made."""
    found: dict[Span, dict[Span, str]] = {}  # by where a value is made, the weights by where they are
    for name, (node, ends) in unread_weights(program.graph).items() if program is not None else ():
        for end in ends:
            found.setdefault(end.written, {}).setdefault(node.written, name)
    told: set[Span] = set()
    for span, names in sorted(found.items(), key=lambda item: -len(item[1])):
        if len(names) > 1:
            reporter.report(mistakes.UnreadValue(span, paths=_some(list(names.values()))))
        elif not told.issuperset(names):
            ((span, name),) = names.items()
            reporter.report(mistakes.UnreadParameter(span, path=name))
        told |= names.keys()


def _some(names: list[str]) -> str:
    """Three names of many, for a message."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"`{name}`" for name in names[:3]) + more


def _check_sight(program: Program | None, reporter: Reporter) -> None:
    """Report attention of which a token would see no key, and so be let see all."""
    for node in blind_attentions(program.graph) if program is not None else ():
        reporter.report(mistakes.BlindQuery(node.written))


def check(spec: Spec) -> int:
    """Lower every model, and every arch that no model shows; how many that were.  Raises `SpecError`."""
    models = dict(spec.module.models)
    used = {model.arch for model in models.values()}
    for arch in spec.module.archs.values():
        if arch.name not in used and all(param.default is not None for param in arch.params):
            models.setdefault(arch.name, syntax.Model(arch.span, arch.name, arch.name, arch.span, ()))
    return len(lower_models(replace(spec, module=replace(spec.module, models=models)), list(models)))


def choose_models(spec: Spec, name: str | None) -> list[str]:
    """The model of a name, or all; raises `ArchcError` where there is none."""
    if name is None:
        if not spec.models:
            raise ArchcError(
                f"{spec.module.source.name} defines no model: add a line `model name = Arch(...)`"
            )
        return spec.models
    if name not in spec.models:
        hint = did_you_mean(name, spec.models)
        known = hint or f"it defines {', '.join(spec.models) or 'none'}"
        raise ArchcError(f"{spec.module.source.name} has no model `{name}`; {known}")
    return [name]


def one_program(spec: Spec, name: str | None, settings: Mapping[str, str] | None = None) -> Program:
    """The program of one model, which needs no name where a spec has only one.  Raises `ArchcError`."""
    names = choose_models(spec, name)
    if len(names) > 1:
        raise ArchcError(
            f"{spec.module.source.name} has several models: --model chooses of {', '.join(names)}"
        )
    (program,) = lower_models(spec, names, settings)
    return program


def compile_program(
    program: Program, rules: tuple[Rule, ...], target: Target = CUDA, tuned: Tuned | None = None
) -> Compilation:
    """Run all passes; raises `SpecError` where an `expect` is not met.

    tuned: what was measured on GPUs; archc's own table without it
    """
    context = Context(rules, target)
    fused = run_passes(program.graph, context)
    _check_expectations(program.expectations, context)
    reference = run_reference_passes(program.graph, context)
    if decodes(reference) and (reason := no_generation(reference, program.following)):
        context.report.remark("cache", f"no `generate`: {reason}")
    return Compilation(program, fused, reference, context, read_tables() if tuned is None else tuned)


def _check_expectations(expectations: Iterable[Expectation], context: Context) -> None:
    reporter = Reporter()
    report = context.report
    fired = {each.rule for each in (*report.fired, *report.absorbed)}
    known = {rule.name: rule for rule in context.rules}
    for expectation in expectations:
        if expectation.rule not in known:
            hint = did_you_mean(expectation.rule, known)
            reporter.report(
                mistakes.UnknownName(expectation.span, kind="fusion", name=expectation.rule, hint=hint)
            )
        elif known[expectation.rule].family not in context.target.families:
            continue  # a target without such kernels is not expected to have this one
        elif expectation.rule not in fired:
            tried = [each for each in context.report.attempts if each.rule == expectation.rule]
            reasons = "; ".join(dict.fromkeys(f"{each.place}: {each.reason}" for each in tried[:3]))
            hint = reasons or "nothing in the model looks like it"
            reporter.report(mistakes.ExpectationFailed(expectation.span, rule=expectation.rule, hint=hint))
    reporter.raise_if_any()


def package_files(compilation: Compilation, origin: Origin) -> dict[str, str]:
    """The files of the generated package by name, headers included."""
    from archc.codegen.emit import with_headers
    from archc.codegen.package import plan_package
    from archc.codegen.render import render_package

    package = plan_package(
        compilation.program,
        compilation.fused,
        compilation.reference,
        compilation.context.target,
        compilation.tuned,
    )
    return with_headers(render_package(package, _report_plan(compilation, package)), origin)


def _report_plan(compilation: Compilation, package: Package) -> ReportPlan:
    """What REPORT.md tells, in words."""
    from archc.analysis.facts import facts
    from archc.codegen.kernels.linear.after_plan import LinearAfterKernel
    from archc.codegen.kernels.linear.linear_plan import LinearKernel
    from archc.codegen.plan import ReportPlan

    program, report = compilation.program, compilation.report
    return ReportPlan(
        name=program.name,
        title=f"{program.arch}, {program.span.line_reference}, for {compilation.context.target.description}.",
        facts=facts(compilation.reference),
        fired=tuple((f.rule, f.place, f.count, ", ".join(f.relaxations)) for f in report.fusions()),
        relaxations=tuple(report.relaxations().items()),
        missed=tuple((m.rule, m.place, m.reason) for m in report.misses()),
        remarks=tuple((r.pass_name, r.text) for r in report.remarks),
        linear=next((kernel for kernel in package.kernels if isinstance(kernel, LinearKernel)), None),
        linears_after=tuple(each for each in package.kernels if isinstance(each, LinearAfterKernel)),
    )


def _expression(name: str, text: str) -> syntax.Expr:
    """The value of `--set name=text` as an expression; raises `SpecError` or `ArchcError`."""
    reporter = Reporter()
    tree = reporter.result(tree_of(Source("--set", f"{name} = {text}"), reporter, keep=False))
    item = tree.items[0]
    if len(tree.items) != 1 or not isinstance(item, syntax.Define):
        raise ArchcError(f"--set takes name=value, not `{name}={text}`")
    return item.value
