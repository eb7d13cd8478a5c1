"""What a model is called with and what it returns: the inputs and outputs of `forward`."""

from __future__ import annotations

from typing import Any

from archc.frontend import mistakes, syntax
from archc.frontend.defaults import Defaults
from archc.frontend.values import POISON, Env, Handle, Poison, describe
from archc.ir.logits import LOGITS, token_rows
from archc.ir.program import POSITIONS, are_positions, front_of, fronts_in, given_inputs, sequences
from archc.ir.types import DType, TensorType

# The dim of all tokens so far, which a decoding step has beside those of its new tokens.
_KEY_DIM = "S"


class Forward(Defaults):
    """Evaluation of `forward`."""

    def forward(self, forward: syntax.Block, env: Env) -> None:
        """Trace the model: its inputs, its body and its outputs."""
        inner = Env(env, is_block=True)
        for param in forward.params:
            inner.names[param.name] = self._input(param, inner)
        self._check_tokens(forward, inner)
        self.defaults(forward.params, inner, env)
        results = self.run(forward.body, inner)
        if results is None:
            self.report(mistakes.MissingReturn(forward.span, name="forward"))
            return
        for result in results:
            self._output(result, self.evaluate(result.value, inner))
        self._check_front()

    def _check_front(self) -> None:
        """Learned tokens come first in the only sequence, as many wherever they are put there."""
        graph = self.frame.graph
        most = front_of(graph)
        for part, node in fronts_in(graph):
            sequence, *others = sequences(graph)
            of_pairs = [v for v in given_inputs(graph) if sequence.dims[1] in graph.type(v).shape[2:]]
            count = part.type(node.inputs[2]).shape[0] if node.inputs[2] is not None else most
            if others:
                reason = "learned tokens come first in a sequence of a model that has no other"
            elif of_pairs:
                reason = f"`{graph.name_of(of_pairs[0])}` has nothing for pairs with learned tokens in front"
            elif count != most:
                reason = f"{count} learned tokens in front, but {most} elsewhere"
            else:
                continue
            self.report(mistakes.WrongShape(node.span or self.line, op=node.op.name, reason=reason))

    def _check_tokens(self, forward: syntax.Block, inner: Env) -> None:
        """The first input says what the batch and the tokens are."""
        first = inner.names[forward.params[0].name] if forward.params else None
        if isinstance(first, Handle) and len(first.type.shape) < 2:
            reason = f"its first input begins with the batch and the tokens, [B, T], but this is {first.type}"
            self.report(mistakes.WrongShape(forward.params[0].span, op="forward", reason=reason))

    def _input(self, param: syntax.Param, env: Env) -> Any:
        if param.shape is None:
            return self.report(mistakes.NoAnnotation(param.span, name=param.name))
        if are_positions(param.name):
            reason = f"the positions of tokens come by themselves, as `{POSITIONS}(x)`"
            return self.report(
                mistakes.ReservedName(param.span, name=param.name, kind="an input", reason=reason)
            )
        dims = self.dims(param.shape, env)
        if dims is None:
            return POISON
        if _KEY_DIM in dims:
            reason = "it stands for the number of tokens so far"
            return self.report(
                mistakes.ReservedName(param.shape.span, name=_KEY_DIM, kind="a dim", reason=reason)
            )
        type_ = TensorType(dims, self.dtype(param.shape) or DType.I64)
        graph = self.frame.graph
        return Handle(graph, graph.add_input(param.name, type_, param.span))

    def _output(self, result: syntax.Result, value: Any) -> None:
        if isinstance(value, Poison):
            return
        if not isinstance(value, Handle):
            self.report(mistakes.NoOutputs(result.span, found=describe(value)))
            return
        name = result.name or (result.value.name if isinstance(result.value, syntax.Name) else "")
        graph = self.frame.graph
        over_tokens = len(value.type.shape) == 3 and value.type.width == token_rows(graph)
        name = name or (LOGITS if over_tokens else "output")
        taken = [known for known, _ in graph.outputs]
        while name in taken:
            name += "_"
        graph.outputs.append((name, self.resolve(value)))
