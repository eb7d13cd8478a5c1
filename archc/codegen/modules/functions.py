"""The package's own functions for ops that are PyTorch's otherwise: linear maps, tables, recurrences."""

from __future__ import annotations

from dataclasses import dataclass, field

from archc.codegen.kernels.linear.linear_kernel import linear_shape
from archc.codegen.kernels.linear.linear_plan import LinearKernel
from archc.codegen.kernels.recurrence.recurrence_kernel import Recurrences
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.ops.linear import EMBEDDING


@dataclass(frozen=True)
class Functions:
    """What a module calls; each "" for PyTorch's.

    linear: the kernel of some linear maps, by the shapes of their weights
    others: the function for all other linear maps by weights
    lookup: the function that looks up in a table
    recurrences: those with a kernel
    """

    linear: LinearKernel | None = None
    others: str = ""
    lookup: str = ""
    recurrences: Recurrences = field(default_factory=Recurrences)

    def of(self, graph: Graph, node: Node) -> str:
        """The function for a node."""
        if node.op is EMBEDDING:
            return self.lookup
        return self.recurrences.function(graph, node) or self.of_weight(linear_shape(graph, node))

    def of_weight(self, shape: tuple[int, int] | None) -> str:
        """The function for linear maps by a weight of a shape; "" for what is no such map."""
        if self.linear and self.linear.has(shape):
            return f"kernels.{self.linear.name}"
        return self.others if shape else ""
