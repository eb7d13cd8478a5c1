"""The package's own functions for ops that are PyTorch's otherwise: linear maps, and rows of a table."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.linear.linear_kernel import linear_shape
from archc.codegen.kernels.linear.linear_plan import LinearKernel
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.ops.linear import EMBEDDING


@dataclass(frozen=True)
class Functions:
    """What a module calls; each "" for PyTorch's.

    linear: the kernel of some linear maps, by the shapes of their weights
    others: the function for all other linear maps by weights
    lookup: the function that looks up in a table
    """

    linear: LinearKernel | None = None
    others: str = ""
    lookup: str = ""

    def of(self, graph: Graph, node: Node) -> str:
        """The function for a node."""
        return self.lookup if node.op is EMBEDDING else self.of_weight(linear_shape(graph, node))

    def of_weight(self, shape: tuple[int, int] | None) -> str:
        """The function for linear maps by a weight of a shape; "" for what is no such map."""
        if self.linear and self.linear.has(shape):
            return f"kernels.{self.linear.name}"
        return self.others if shape else ""
