"""What a fused op costs for a token: bytes moved against the least that its meaning demands, and operations.

Bytes are counted at two lengths.  What grows between them, in tensors that grow as well, is a token's share;
weights and partial sums, whose size stays, are a program's affair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from archc.codegen.kernels.custom_op import CustomOp
from archc.ir.decomposition import OperandRef, Step
from archc.ir.flops import node_flops
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.rule import Rule, fused_by
from archc.ir.types import TensorType
from tests.instruments.minimum import Needs, gradient_needs
from tests.instruments.traffic import Traffic, measure

_TOKENS = 4  # and twice as many: an interpreted reduction has four programs, whatever it sums
_ONE_TOKEN: Mapping[str, int] = defaultdict(lambda: 1)  # every dim that is open


@dataclass(frozen=True)
class Cost:
    """Bytes and operations of a token.

    least:  each value read once, each result written once
    moved:  what the kernels and PyTorch move at first access
    again:  what a program reads once more
    flops:  of the op's meaning, as the ops of its decomposition declare them
    """

    name: str
    least: int
    moved: float
    again: float
    flops: int


def op_costs(
    kernels: ModuleType, name: str, plan: CustomOp, graph: Graph, node: Node, dtype: torch.dtype
) -> tuple[Cost, Cost]:
    """The costs of a fused op and of its gradient, in a process where Triton interprets."""
    rule, types = fused_by(node), graph.operand_types(node)
    results = dict(zip(rule.output_names, node.types, strict=True))
    returned = {text.partition(" if ")[0] for text in plan.returned}
    wanted = [operand for operand in types if f"d{operand}" in returned]
    operands = _random(types, 1, torch.float64)
    needs = gradient_needs(rule, operands, node.attributes, wanted) if wanted else Needs({}, frozenset())
    known = {**types, **results}
    read = {ref.name for step in rule.steps for ref in _read_by(step)}
    forward = sum(_bytes(type_, dtype) for value, type_ in known.items() if value in read or value in results)
    backward = sum(_bytes(type_, dtype) for type_ in results.values() if type_.dtype.is_floating)
    backward += sum(round(share * _bytes(known[value], dtype)) for value, share in needs.read.items())
    backward += sum(_bytes(types[value], dtype) for value in needs.written)
    flops = node_flops(graph, node, _ONE_TOKEN)
    traffics = [
        _traffic(kernels, name, plan, rule, types, tokens, dtype) for tokens in (_TOKENS, 2 * _TOKENS)
    ]
    return (
        _cost(name, forward, [both[0] for both in traffics], flops),
        _cost(f"{name}_backward", backward, [both[1] for both in traffics], 2 * flops),
    )


def _traffic(
    kernels: ModuleType,
    name: str,
    plan: CustomOp,
    rule: Rule,
    types: Mapping[str, TensorType],
    tokens: int,
    dtype: torch.dtype,
) -> tuple[Traffic, Traffic]:
    """What the op and its gradient move for one sequence of `tokens`."""
    values: dict[str, Any] = _random(types, tokens, dtype)
    outputs: list[Tensor] = []
    run = _implementation(kernels, name)

    def forward() -> None:
        results = run(*(values[operand] for operand in plan.names))
        outputs.extend(results if isinstance(results, tuple) else (results,))

    there = measure(forward)
    if not plan.gradients:
        return there, Traffic()
    values |= dict(zip(rule.output_names, outputs, strict=True))
    values |= {
        f"d{n}": torch.randn_like(values[n]) for n in rule.output_names if values[n].is_floating_point()
    }
    run_back = _implementation(kernels, f"{name}_backward")
    return there, measure(lambda: run_back(*(values[incoming] for incoming in plan.incoming_names)))


def _implementation(kernels: ModuleType, name: str) -> Callable[..., Any]:
    """The launch behind an op: inside of the op itself PyTorch's dispatch is not seen."""
    function: Callable[..., Any] = getattr(kernels, f"_{name}").launch
    return function


def _cost(name: str, least: int, lengths: Sequence[Traffic], flops: int) -> Cost:
    short, long = lengths
    moved = again = 0
    for key, entry in long.moved.items():
        before = short.moved[key]
        again += entry.again - before.again
        if entry.size > before.size:
            moved += entry.first - before.first
    return Cost(name, least, moved / _TOKENS, again / _TOKENS, flops)


def _bytes(type_: TensorType, dtype: torch.dtype) -> int:
    """A token's share of a tensor; a weight has none."""
    if not any(isinstance(dim, str) for dim in type_.shape):
        return 0
    return type_.bind(_ONE_TOKEN).numel() * {"f32": 4, "i64": 8}.get(type_.dtype.value, dtype.itemsize)


def _read_by(step: Step) -> Iterator[OperandRef]:
    """The operands that a step reads more of than the dtype."""
    for place, ref in enumerate(step.inputs):
        models = step.op.models and step.op.operands[place].name in step.op.models
        if isinstance(ref, OperandRef) and not models:
            yield ref


def _random(types: Mapping[str, TensorType], tokens: int, dtype: torch.dtype) -> dict[str, Tensor | None]:
    shapes = {name: [_length(dim, tokens) for dim in type_.shape] for name, type_ in types.items()}
    kinds = {
        name: torch.float32 if type_.dtype.value == "f32" and dtype != torch.float64 else dtype
        for name, type_ in types.items()
    }
    values = {name: torch.randn(shape) for name, shape in shapes.items()}
    for name, type_ in types.items():
        if len(type_.shape) > 1 and not any(isinstance(dim, str) for dim in type_.shape):
            # A weight: where its products saturate, gradients need less.
            values[name] /= shapes[name][-1] ** 0.5
    return {name: value.to(kinds[name]) for name, value in values.items()}


def _length(dim: Any, tokens: int) -> int:
    return {"B": 1}.get(dim, tokens) if isinstance(dim, str) else int(dim)
