"""A `model` line -> its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from archc.errors import Mistake, Note, Reporter, did_you_mean
from archc.frontend import mistakes, syntax
from archc.frontend.forward import Forward
from archc.frontend.limits import MAX_NESTING, MAX_STEPS
from archc.frontend.lowerer import Budget, ExhaustedError
from archc.frontend.model_arguments import check_overrides, match_model, unknown_arch, with_origin
from archc.frontend.repeat import repeat_sequences
from archc.frontend.resolve import Module
from archc.frontend.scopes import Scopes, constant
from archc.frontend.tied_experts import join_tied_experts
from archc.frontend.values import POISON, BlockValue, Builtin, Env, Poison, describe
from archc.frontend.weight_names import check_weight_names, names_in_use
from archc.ir.graph import Graph
from archc.ir.paths import Path, path_text
from archc.ir.program import Program

T = TypeVar("T")


class ModelLowerer(Forward):
    """Lowers one model."""

    def __init__(self, module: Module, model: syntax.Model, reporter: Reporter, budget: Budget):
        super().__init__(reporter, Graph(model.name), module.source, model.span, budget)
        self.module = module
        self.model = model
        self.scopes = Scopes(self)
        self.expectations = {}
        self.notes = {}

    def lower(self, overrides: Mapping[str, syntax.Expr]) -> Program | None:
        """The model's program, or None after mistakes; raises `ArchcError` for an unknown override."""
        found = self._arch()
        if found is None:
            return None
        arch, home = found
        env = Env(self.scopes.of(home))
        parameters = self._parameters(arch, env, overrides)
        forward = self._members(arch, env, home)
        if forward is None:
            self.report(mistakes.MissingForward(arch.span, name=arch.name))
            return None
        root = self._root()
        with self.within(() if self.moved else root):
            self.forward(forward, env)
        self._check_moved()
        ignored = tuple(self._ignored(arch, env, root))
        return None if self.reporter else self._program(arch, parameters, root, ignored)

    def _root(self) -> Path:
        """The path below which the checkpoint has the model, or that part of it whose segment it replaces."""
        given = self.model.root
        if given is None:
            return ()
        path = self.path_of(given.path, self.scopes.of(self.module))
        if given.replaced is not None:
            self.moved = given.replaced, path
        return path

    def _check_moved(self) -> None:
        """Report a root that takes the place of what no path begins with."""
        given = self.model.root
        if self.moved is None or given is None or self.reporter:
            return
        segment, root = self.moved
        if not any(path[: len(root)] == root for path in self.weights):
            hint = did_you_mean(segment, {str(path[0]) for path in self.weights})
            self.report(mistakes.UnknownRoot(given.span, segment=segment, arch=self.model.arch, hint=hint))

    def report(self, mistake: Mistake) -> Any:
        """Report a mistake; where a spec has several models, with the first one that led to it."""
        models = self.module.models.keys() - self.module.archs.keys()  # an arch by itself is one of its name
        if len(models) > 1 and mistake.span.line != self.model.span.line:
            mistake = mistake.noting(Note(f"in model `{self.model.name}`", self.model.span))
        return super().report(mistake)

    def parameters(self) -> dict[str, Any] | None:
        """What the arch's parameters are in the model, without its graph; None after mistakes."""
        found = self._arch()
        if found is None:
            return None
        arch, home = found
        values = self._parameters(arch, Env(self.scopes.of(home)), {})
        return None if self.reporter else values

    def _arch(self) -> tuple[syntax.Arch, Module] | None:
        """The model's arch and where it is written."""
        found = self.module.find_arch(self.model.arch)
        if found is None:
            self.report(unknown_arch(self.module, self.model))
        return found

    def _program(
        self, arch: syntax.Arch, parameters: dict[str, Any], root: Path, ignored: tuple[str, ...]
    ) -> Program | None:
        graph = self.frame.graph
        join_tied_experts(graph)
        check_weight_names(graph, self.weight_calls, self.reporter)
        if self.reporter:
            return None
        names = names_in_use(graph, self.tied_names)
        tied = {alias: target for alias, target in self.tied_names.items() if alias not in names}
        repeat_sequences(graph)
        return Program(
            name=self.model.name,
            arch=arch.name,
            source=self.module.source.name,
            span=self.model.span,
            graph=graph,
            parameters=parameters,
            root=path_text(root),
            replaced=self.moved[0] if self.moved else "",
            ignored=ignored,
            expectations=tuple(self.expectations),
            start=self.start,
            following=self.following,
            tied=tuple((tuple(alias.split(".")), tuple(target.split("."))) for alias, target in tied.items()),
        )

    def _ignored(self, arch: syntax.Arch, env: Env, root: Path) -> Iterator[str]:
        """The patterns of tensors that the model has no use for, as the checkpoint calls them."""
        for each in arch.members:
            if not isinstance(each, syntax.Ignore):
                continue
            value = constant(self, "ignore", each.pattern, env)
            if isinstance(value, str):
                pattern = tuple(value.split("."))
                yield path_text(self.placed(pattern) if self.moved else (*root, *pattern))
            elif value is not None and not isinstance(value, Poison):
                what, expected = "what is ignored", "a string or `none`"
                self.report(
                    mistakes.WrongValue(
                        each.pattern.span, what=what, expected=expected, found=describe(value)
                    )
                )

    def _parameters(
        self, arch: syntax.Arch, env: Env, overrides: Mapping[str, syntax.Expr]
    ) -> dict[str, Any]:
        """Give the arch's parameters their values, in `env` and as the result; `POISON` after a mistake."""
        check_overrides(arch, overrides)
        given = match_model(self.model, arch, overrides)
        if isinstance(given, mistakes.WrongArguments):
            self.report(given)
            given = {}
        outside = self.scopes.of(self.module)
        values: dict[str, Any] = {}
        constants: set[str] = set()
        for param in arch.params:
            expr, scope = param.default, env
            if param.name in overrides:
                expr, scope = overrides[param.name], outside
            elif param.name in given:
                expr, scope = given[param.name].value, outside
            value = self._parameter(param.name, expr, scope)
            value = with_origin(value, param.name, constants, len(values))
            values[param.name] = env.names[param.name] = value
        return values

    def _parameter(self, name: str, expr: syntax.Expr | None, env: Env) -> Any:
        if expr is None:  # it was not given, which is reported
            return POISON
        value = constant(self, name, expr, env)
        if isinstance(value, Builtin):
            expected, found = "a value, an op or a block", describe(value)
            return self.report(
                mistakes.WrongValue(expr.span, what=f"`{name}`", expected=expected, found=found)
            )
        return value

    def _members(self, arch: syntax.Arch, env: Env, home: Module) -> syntax.Block | None:
        """Enter an arch's blocks, then its constants into its scope; its `forward`."""
        blocks = {member.name: member for member in arch.members if isinstance(member, syntax.Block)}
        forward = blocks.pop("forward", None)
        env.names.update({name: BlockValue(block, env, home.source) for name, block in blocks.items()})
        for member in arch.members:
            if isinstance(member, syntax.Define):
                env.names[member.name] = constant(self, member.name, member.value, env)
            elif isinstance(member, syntax.Expect):
                self._statement(member, env)
        return forward


def lower(
    module: Module,
    model: str,
    reporter: Reporter,
    overrides: Mapping[str, syntax.Expr] | None = None,
    budget: Budget | None = None,
) -> Program | None:
    """The program of a model that a module defines; None after mistakes, which are reported.

    Models that share a `budget` share its steps.
    """
    lowerer = ModelLowerer(module, module.models[model], reporter, budget or Budget())
    return _within_limits(lowerer, lambda: lowerer.lower(overrides or {}))


def lower_parameters(module: Module, model: str, reporter: Reporter) -> dict[str, Any] | None:
    """What the parameters of a model's arch are, by name; None after mistakes, which are reported."""
    lowerer = ModelLowerer(module, module.models[model], reporter, Budget())
    return _within_limits(lowerer, lowerer.parameters)


def _within_limits(lowerer: ModelLowerer, work: Callable[[], T | None]) -> T | None:
    """The result of evaluating; None where that is too much or too deep, which is reported."""
    span = lowerer.model.span
    try:
        return work()
    except ExhaustedError:
        lowerer.reporter.report(mistakes.TooMany(span, what="steps of evaluation", limit=MAX_STEPS))
    except RecursionError:
        lowerer.reporter.report(mistakes.TooDeep(span, limit=MAX_NESTING))
    return None
