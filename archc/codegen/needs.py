"""What a package needs, read off a model's graphs: tokens, sizes, terms of the loss, operands of experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from archc.codegen.plan import Constant, Tokens
from archc.ir.graph import Graph
from archc.ir.ops.structure import APPEND
from archc.ir.program import given_inputs, sequences
from archc.ir.sizes import NamedFloat, Size
from archc.ir.types import DType, shape_text


def token_sequences(graph: Graph) -> tuple[Tokens, ...]:
    """The sequences of tokens that a model takes; the last is the one that grows."""
    inputs = [(graph.type(value).shape[:2], graph.name_of(value)) for value in given_inputs(graph)]
    return tuple(
        Tokens(next(name for dims, name in inputs if dims == s.dims), shape_text(s.dims), s.called("padding"))
        for s in sequences(graph)
    )


def loss_terms(graph: Graph) -> tuple[str, ...]:
    """The terms that a spec adds to the loss, in its order."""
    names: dict[str, None] = {}
    for part in graph.walk():
        for node in part.losses():
            kinds = zip(node.attributes["kinds"], node.attributes["body"].outputs, strict=True)
            names.update((name, None) for kind, (name, _) in kinds if kind == "loss")
    return tuple(names)


def expert_operands(parts: Sequence[Graph]) -> Iterator[str]:
    """The optional operands and the flags that some call of a function of experts has."""
    for part in parts:
        for node in part.nodes():
            if node.op.module == "experts":
                operands = zip(node.op.operands, node.inputs, strict=True)
                yield from (
                    operand.name for operand, value in operands if operand.optional and value is not None
                )
                yield from (name for name, value in node.attributes.items() if value is True)


def keeps_numbers(graph: Graph) -> bool:
    """Whether a cache keeps whole numbers of tokens."""
    return any(node.op is APPEND and node.types[0].dtype is DType.I64 for node in graph.nodes())


def size_constants(parameters: Mapping[str, Any]) -> list[Constant]:
    """The arch's numbers under the names that sizes refer to."""
    constants: list[Constant] = []
    for value in parameters.values():
        if isinstance(value, Size):
            constants.append(Constant(value.text, str(int(value))))
        elif isinstance(value, NamedFloat):
            constants.append(Constant(value.name, repr(float(value))))
    return constants
