"""Plans for linear recurrences: those of equal widths and operands share one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from archc.codegen.kernels.recurrence.recurrence_plan import RecurrenceKernel
from archc.codegen.literals import attribute_code
from archc.codegen.semantics import Semantics, use_of
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.ops.recurrence import RECUR
from archc.ir.types import DType


@dataclass(frozen=True)
class Recurrences:
    """The recurrences of a model on a target that has a kernel for them."""

    kernels: dict[Any, RecurrenceKernel] = field(default_factory=dict)

    def function(self, graph: Graph, node: Node) -> str:
        """The function for a node; "" where there is none."""
        kernel = self.kernels.get(_key(graph, node)) if node.op is RECUR else None
        return f"kernels.{kernel.name}" if kernel else ""


def plan_recurrences(parts: Sequence[Graph], semantics: Semantics) -> Recurrences:
    """The kernels of all recurrences in some graphs."""
    kernels: dict[Any, RecurrenceKernel] = {}
    for graph, node in _recurrences(parts):
        key = _key(graph, node)
        if key not in kernels:
            name = "linear_attention" + (f"_{len(kernels) + 1}" if kernels else "")
            kernels[key] = _plan(name, graph, node, semantics)
    return Recurrences(kernels)


def _recurrences(parts: Sequence[Graph]) -> Iterator[tuple[Graph, Node]]:
    return ((part, node) for part in parts for node in part.nodes() if node.op is RECUR)


def _key(graph: Graph, node: Node) -> Any:
    """Equal for nodes that share a kernel: how many tokens there are does not matter."""
    shapes = tuple(value and tuple(map(str, graph.type(value).shape)) for value in node.inputs)
    return shapes, tuple(node.attributes.items())


def _plan(name: str, graph: Graph, node: Node, semantics: Semantics) -> RecurrenceKernel:
    types = {
        operand.name: graph.type(value)
        for operand, value in zip(node.op.operands, node.inputs, strict=True)
        if value is not None
    }
    *_, kv_heads, keys = types["k"].shape
    *_, heads, values = types["v"].shape
    decay = types["log_decay"].shape if "log_decay" in types else ()
    texts = {key: attribute_code(value, by_name=False) for key, value in node.attributes.items()}
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
        plain=semantics.call(use_of(node), list(types), texts, "reference."),
    )
