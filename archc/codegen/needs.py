"""What a package needs, read off a model's graphs: inputs, sizes, terms of the loss, operands of experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from archc.codegen.calling import Input, Tokens
from archc.codegen.names import argument
from archc.codegen.plan import Constant
from archc.ir.graph import Graph
from archc.ir.node import Value
from archc.ir.op import REQUIRED
from archc.ir.ops.structure import APPEND
from archc.ir.program import given_inputs, grows, sequences, tokens_of
from archc.ir.sizes import NamedFloat, Size
from archc.ir.types import Dim, DType, shape_text

_DTYPES = {DType.I64: "(torch.int64,)", DType.BOOL: "(torch.bool,)"}  # what is neither is floating-point


def token_sequences(graph: Graph) -> tuple[Tokens, ...]:
    """The sequences of tokens that a model takes; the last is the one that grows."""
    return tuple(
        Tokens(argument(graph.name_of(tokens_of(graph, each))), shape_text(each.dims), each.called("padding"))
        for each in sequences(graph)
    )


def model_inputs(graph: Graph, cached: bool) -> tuple[Input, ...]:
    """What a model is called with; with a cache, what is not of the tokens that grow may be left out."""
    return (
        *(_input(graph, v, optional=cached and not grows(graph, v)) for v in given_inputs(graph)),
        *(Input(s.called("padding"), "(torch.bool,)", _dims(s.dims), True) for s in sequences(graph)),
    )


def _input(graph: Graph, value: Value, optional: bool) -> Input:
    type_ = graph.type(value)
    name = argument(graph.name_of(value))
    return Input(name, _DTYPES.get(type_.dtype, "_FLOATS"), _dims(type_.shape), optional)


def _dims(shape: Sequence[Dim]) -> str:
    """A shape as Python: `("B", "T", 64)`."""
    dims = [str(int(dim)) if isinstance(dim, int) else f'"{dim}"' for dim in shape]
    return f"({', '.join(dims)}{',' if len(dims) == 1 else ''})"


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
                optional = (operand.name for operand in node.op.operands if operand.optional)
                yield from (name for name in optional if name in node.named)
                yield from (
                    name
                    for name, attribute in node.op.attributes.items()
                    if attribute.default not in (REQUIRED, node.attributes[name])
                )


def keeps(graph: Graph, dtype: DType) -> bool:
    """Whether a cache keeps values of a dtype."""
    return any(node.op is APPEND and node.types[0].dtype is dtype for node in graph.nodes())


def size_constants(parameters: Mapping[str, Any]) -> list[Constant]:
    """The arch's numbers under the names that sizes refer to."""
    constants: list[Constant] = []
    for value in parameters.values():
        if isinstance(value, Size):
            constants.append(Constant(value.text, str(int(value))))
        elif isinstance(value, NamedFloat):
            constants.append(Constant(value.name, repr(float(value))))
    return constants
