"""What a module's code sees: the language, the prelude, imports, its own blocks and constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from archc import resources
from archc.errors import Reporter
from archc.frontend import arithmetic, mistakes
from archc.frontend.callees import QUERIES
from archc.frontend.lowerer import Lowerer
from archc.frontend.resolve import Loader, Module
from archc.frontend.values import BlockValue, Env, Handle, List, describe
from archc.ir import ops
from archc.ir.op import OPS, choice_words
from archc.ir.records import Symbol


@cache
def language() -> Mapping[str, Any]:
    """What every spec sees: ops, records, compile-time functions, the words of choices."""
    names: dict[str, Any] = {word: Symbol(word) for word in sorted(choice_words())}
    names.update({op.name: op for op in OPS.values() if not op.internal})
    names.update(arithmetic.BUILTINS)
    names.update({query.name: query for query in QUERIES})
    for kind, cls in ops.RECORDS.items():
        names[kind] = cls if fields(cls) else cls()
    return names


@cache
def prelude() -> Module:
    """The module whose blocks every spec sees."""
    reporter = Reporter()
    return reporter.result(Loader(reporter).load(resources.resource_dir("specs") / "prelude.arch"))


class Scopes:
    """The scopes of the modules that take part in lowering one model, each made once."""

    def __init__(self, lowerer: Lowerer):
        self._lowerer = lowerer
        self._made: dict[int, Env] = {}

    def of(self, module: Module) -> Env:
        """The scope of a module's top level."""
        if id(module) not in self._made:
            self._made[id(module)] = self._make(module)
        return self._made[id(module)]

    def _make(self, module: Module) -> Env:
        first = Env(Env(names=dict(language())))
        first.names.update(blocks_of(prelude(), first))
        imported = Env(first)
        for other in module.imports.values():
            names = self.of(other).names
            imported.names.update({name: names[name] for name in (*other.blocks, *other.defines)})
        own = Env(imported)
        own.names.update(blocks_of(module, own))
        for name, define in module.defines.items():
            own.names[name] = constant(self._lowerer, name, define.value, own)
        return own


def blocks_of(module: Module, env: Env) -> dict[str, BlockValue]:
    """A module's blocks, which see what `env` holds."""
    return {name: BlockValue(block, env, module.source) for name, block in module.blocks.items()}


def constant(lowerer: Lowerer, name: str, expr: Any, env: Env) -> Any:
    """The value of a constant, which may not be a tensor."""
    value = lowerer.evaluate(expr, env)
    if isinstance(value, Handle) or (isinstance(value, List) and any(value.tensors())):
        return lowerer.report(mistakes.TensorConstant(expr.span, name=name, found=describe(value)))
    return value
