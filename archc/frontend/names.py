"""Checks of a module that need no values: its items, and the names in their statements.

Lowering runs only what a model reaches.  This walks the whole module, with blocks that nothing calls and
branches that nothing takes, and reports no more than lowering would if it got there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from archc.errors import Reporter
from archc.frontend import mistakes, syntax
from archc.frontend.model_arguments import match_model, unknown_arch
from archc.frontend.resolve import Module
from archc.frontend.scopes import blocks_of, language, prelude
from archc.frontend.statement_names import ANY, StatementNames
from archc.frontend.statements import may_return
from archc.frontend.values import Env


def check_names(module: Module, fusions: Collection[str], reporter: Reporter) -> None:
    """Check a module and what it imports; standard specs are checked by themselves."""
    for each in module.with_imports():
        if each is module or not each.source.standard:
            _Checker(each, fusions, reporter).check()


def check_arguments(module: Module, values: Sequence[syntax.Expr], reporter: Reporter) -> None:
    """Check arguments of models that do not stand in the module, as those of `--set`."""
    _Checker(module, (), reporter).check_arguments(values)


class _Checker(StatementNames):
    """Checks one module."""

    def check_arguments(self, values: Sequence[syntax.Expr]) -> None:
        env = Env(self._scope(), dict.fromkeys(self.module.defines, ANY))
        for model in self.module.models.values():
            self._arguments(model, values, env)

    def check(self) -> None:
        module, env = self.module, self._scope()
        self.hints = dict.fromkeys(
            module.defines, "constants are computed in order, and it comes further down"
        )
        for name, define in module.defines.items():
            self._declare(name, define.span, "a constant")
            self._expr(define.value, env)
            env.names[name] = ANY
        self.hints.clear()
        for fuse in module.fusions.values():
            self._unique([(name, fuse.span) for name in (*fuse.operands, *fuse.attributes)], "operand")
        for block in module.blocks.values():
            self._declare(block.name, block.span, "a block")
            self._block(block, env)
        for arch in module.archs.values():
            self._declare(arch.name, arch.span, "an arch")
            self._arch(arch, env)
        for model in module.models.values():
            self._model(model, env)

    def _scope(self) -> Env:
        """What the top level sees before any constant."""
        env = Env(Env(names=dict(language())))
        env.names.update(blocks_of(prelude(), env))
        imported = Env(env)
        for other in self.module.imports.values():
            imported.names.update({**blocks_of(other, env), **dict.fromkeys(other.defines, ANY)})
        own = Env(imported)
        own.names.update(blocks_of(self.module, own))
        return own

    def _model(self, model: syntax.Model, env: Env) -> None:
        found = self.module.find_arch(model.arch)
        if found is None:
            self._report(unknown_arch(self.module, model))
        elif isinstance(given := match_model(model, found[0], {}), mistakes.WrongArguments):
            self._report(given)
        self._arguments(model, [argument.value for argument in model.arguments], env)
        if model.root is not None:
            self._path(model.root.path, env)

    def _arguments(self, model: syntax.Model, values: Sequence[syntax.Expr], env: Env) -> None:
        """What a model gives its arch, whose parameters it does not see."""
        if found := self.module.find_arch(model.arch):
            hint = f"a model's arguments do not see the parameters of `{model.arch}`"
            self.hints = {param.name: hint for param in found[0].params}
        self._all(values, env)
        self.hints.clear()

    def _arch(self, arch: syntax.Arch, outer: Env) -> None:
        env = Env(outer)
        self._params(arch.params, env)
        members = [m for m in arch.members if isinstance(m, syntax.Block | syntax.Define)]
        forwards = [member for member in members if member.name == "forward"]
        for named in ((*arch.params, *(m for m in members if m.name != "forward")), forwards):
            self._unique([(node.name, node.span) for node in named], "name")
        self._members(members, env)
        for member in arch.members:
            if isinstance(member, syntax.Block):
                self._block(member, env)
            elif isinstance(member, syntax.Expect):
                self._expect(member)
            elif isinstance(member, syntax.Ignore):
                self._expr(member.pattern, env)
        if not forwards:
            self._report(mistakes.MissingForward(arch.span, name=arch.name))

    def _members(self, members: Sequence[syntax.Block | syntax.Define], env: Env) -> None:
        """Constants see blocks, and constants before them; blocks are run later and see everything."""
        blocks = [m for m in members if isinstance(m, syntax.Block) and m.name != "forward"]
        constants = [m for m in members if isinstance(m, syntax.Define)]
        named = {block.name: block for block in blocks}
        env.names.update(blocks_of(Module(self.module.source, None, blocks=named), env))
        for block in blocks:
            self._declare(block.name, block.span, "a block")
        hint = "constants are computed in order, and it comes further down"
        self.hints = {constant.name: hint for constant in constants}
        for constant in constants:
            self._declare(constant.name, constant.span, "a constant")
            self._expr(constant.value, env)
            env.names[constant.name] = ANY
        self.hints.clear()

    def _block(self, block: syntax.Block, outer: Env) -> None:
        env = Env(outer, is_block=True)
        is_forward = block.name == "forward"
        self._params(block.params, env, see_themselves=is_forward)
        self._unique([(param.name, param.span) for param in block.params], "parameter")
        for param in block.params:
            if is_forward and param.shape is None:
                self._report(mistakes.NoAnnotation(param.span, name=param.name))
        self._body(block.body, env)
        self.hints.clear()
        if not may_return(block.body):
            self._report(mistakes.MissingReturn(block.span, name=block.name))

    def _params(self, params: Sequence[syntax.Param], env: Env, see_themselves: bool = False) -> None:
        """Parameters with their defaults, which see those before them, and inputs' also themselves."""
        self.hints = {param.name: "a parameter sees only those before it" for param in params}
        for param in params:
            self._declare(param.name, param.span, "a parameter")
            self._shape(param.shape, env)
            if param.default is not None:
                own = {param.name: ANY} if see_themselves else {}
                self._expr(param.default, Env(env, own))
            env.names[param.name] = ANY
        self.hints.clear()
