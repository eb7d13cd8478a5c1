"""Plans for what tokens change and carry on: those of equal widths and operands share one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from archc.codegen.kernels.recurrence.recurrence_plan import RecurrenceKernel
from archc.codegen.kernels.recurrence.running_maximum_plan import RunningMaximumKernel
from archc.codegen.literals import attribute_code
from archc.codegen.semantics import Semantics, use_of
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.op import Op
from archc.ir.ops.recurrence import RECUR
from archc.ir.ops.running_maximum import CARRY_MAXIMUM
from archc.ir.types import DType

CarryingKernel = RecurrenceKernel | RunningMaximumKernel


@dataclass(frozen=True)
class Recurrences:
    """The ops of a model that carry a state, on a target that has kernels for them."""

    kernels: dict[tuple[Any, ...], CarryingKernel] = field(default_factory=dict)

    def function(self, graph: Graph, node: Node) -> str:
        """The function for a node; "" where there is none."""
        kernel = self.kernels.get(_key(graph, node)) if node.op in _PLANS else None
        return f"kernels.{kernel.name}" if kernel else ""


def plan_recurrences(parts: Sequence[Graph], semantics: Semantics) -> Recurrences:
    """The kernels of all ops in some graphs that carry a state."""
    kernels: dict[tuple[Any, ...], CarryingKernel] = {}
    for graph, node in _recurrences(parts):
        key = _key(graph, node)
        if key not in kernels:
            rivals = sum(other[0] == key[0] for other in kernels)
            name = _NAMES[node.op] + (f"_{rivals + 1}" if rivals else "")
            kernels[key] = _PLANS[node.op](name, graph, node, semantics)
    return Recurrences(kernels)


def _recurrences(parts: Sequence[Graph]) -> Iterator[tuple[Graph, Node]]:
    return ((part, node) for part in parts for node in part.nodes() if node.op in _PLANS)


def _key(graph: Graph, node: Node) -> tuple[Any, ...]:
    """Equal for nodes that share a kernel: how many tokens there are does not matter."""
    shapes = tuple(value and tuple(map(str, graph.type(value).shape)) for value in node.inputs)
    return node.op.name, shapes, tuple(node.attributes.items())


def _plain(node: Node, operands: Iterable[str], semantics: Semantics) -> str:
    """The call of the reference function."""
    texts = {key: attribute_code(value, by_name=False) for key, value in node.attributes.items()}
    return semantics.call(use_of(node), list(operands), texts, "reference.")


def _plan_recurrence(name: str, graph: Graph, node: Node, semantics: Semantics) -> RecurrenceKernel:
    types = graph.operand_types(node)
    *_, kv_heads, keys = types["k"].shape
    *_, heads, values = types["v"].shape
    decay = types["log_decay"].shape if "log_decay" in types else ()
    return RecurrenceKernel(
        name=name,
        heads=int(heads),
        kv_heads=int(kv_heads),
        keys=int(keys),
        values=int(values),
        decay="row" if len(decay) in (2, 4) else "head" if decay else "",
        fixed=len(decay) in (1, 2),
        beta="beta" in types,
        erase="erase" in types,
        carries="state" in types,
        reads_before=node.attributes["reads"] == "before",
        scale=node.attributes["scale"],
        wide=tuple(name for name, type_ in types.items() if type_.dtype is DType.F32),
        plain=_plain(node, types, semantics),
    )


def _plan_maximum(name: str, graph: Graph, node: Node, semantics: Semantics) -> RunningMaximumKernel:
    types = graph.operand_types(node)
    shape = types["x"].shape
    return RunningMaximumKernel(
        name=name,
        width=prod(int(dim) for dim in shape[2:]),
        fixed=types["log_decay"].shape != shape,
        first=node.attributes["first"],
        carries="state" in types,
        plain=_plain(node, types, semantics),
    )


_NAMES = {RECUR: "linear_attention", CARRY_MAXIMUM: "running_maximum"}
_PLANS: dict[Op, Callable[[str, Graph, Node, Semantics], CarryingKernel]] = {
    RECUR: _plan_recurrence,
    CARRY_MAXIMUM: _plan_maximum,
}
