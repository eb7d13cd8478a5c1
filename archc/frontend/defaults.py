"""Defaults of a model's inputs: the token that a sequence begins with, and what comes with later tokens."""

from __future__ import annotations

from collections.abc import Sequence

from archc.frontend import mistakes, syntax
from archc.frontend.lowerer import Frame
from archc.frontend.scans import Scans
from archc.frontend.values import Env, Handle, Poison, describe
from archc.ir.attributes import kind_of
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.op import Trait
from archc.ir.ops.structure import CONSTANT
from archc.ir.program import grows, sequences, tokens_of
from archc.ir.types import TensorType


class Defaults(Scans):
    """Evaluation of such defaults.

    start:     the token that the last sequence begins with
    following: what inputs are for the next token, each made of what it is for the last one
    """

    start: int | None = None
    following: Graph | None = None

    def defaults(self, params: Sequence[syntax.Param], inputs: Env, env: Env) -> None:
        """Take in what the defaults of `inputs` say; they see the names of `env`."""
        given = {param.name: inputs.names[param.name] for param in params}
        if any(not isinstance(each, Handle) for each in given.values()):
            return  # which is reported
        known = sequences(self.frame.graph)
        for param in params:
            value = given[param.name].value
            is_tokens = value == tokens_of(self.frame.graph, known[-1])
            if param.default is None:
                continue
            if is_tokens and len(known) > 1:
                self.start = self._token(param, param.default, env)
            elif grows(self.frame.graph, value) and not is_tokens:
                self._follow(param, param.default, given[param.name].type, env)
            else:
                self.report(mistakes.NoDefault(param.span, name=param.name))

    def _token(self, param: syntax.Param, default: syntax.Expr, env: Env) -> int | None:
        what = f"the token that `{param.name}` begins with"
        value = self.convert(self.evaluate(default, env), kind_of(int | None), what, default.span)
        return value if isinstance(value, int) else None

    def _follow(self, param: syntax.Param, default: syntax.Expr, type_: TensorType, env: Env) -> None:
        """Trace what an input is for the next token."""
        graph = self.following = self.following or Graph(f"{self.frame.graph.name}.following")
        own = Handle(graph, graph.add_input(param.name, type_, param.span))
        before = {node.id for node in graph.nodes()}
        outer, self.frame = self.frame, Frame(graph)
        value = self.evaluate(default, Env(env, {param.name: own}))
        self.frame = outer
        what = f"`{param.name}` of the next token"
        if isinstance(value, Poison):
            return
        if not isinstance(value, Handle):
            self.report(mistakes.NotATensor(default.span, what=what, found=describe(value)))
        elif not all(_is_arithmetic(node) for node in graph.nodes() if node.id not in before):
            self.report(mistakes.NotFollowing(default.span, what=what, name=param.name))
        elif value.type != type_:
            reason = f"{what} is {value.type}, but that of the others {type_}"
            self.report(mistakes.WrongShape(default.span, op="forward", reason=reason))
        else:
            graph.outputs.append((param.name, value.value))


def _is_arithmetic(node: Node) -> bool:
    return node.op is CONSTANT or node.op.has(Trait.PER_TOKEN)
