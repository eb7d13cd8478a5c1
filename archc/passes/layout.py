"""Every linear's weight is [out, in], however a checkpoint stores it: its sources say so."""

from __future__ import annotations

from dataclasses import replace

from archc.ir.graph import Graph
from archc.ir.node import Node, stored_in
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.structure import WEIGHT
from archc.ir.types import DType, TensorType
from archc.passes.context import Context
from archc.passes.reuse import Reuse


def normalise_layout(graph: Graph, _context: Context) -> None:
    """Hold every linear's weight as [out, in], however the checkpoint stores it."""
    reuse = Reuse(graph)
    for part in graph.walk():
        for node in part.nodes():
            if node.op is LINEAR and part.node(node.id).attributes["layout"] == "in_out":
                _transpose(part, node, reuse)


def _transpose(part: Graph, linear: Node, reuse: Reuse) -> None:
    home, value = reuse.origin(part, linear.operands[1])
    weight, uses = home.node(value), reuse.uses(part, [linear])
    if weight.op is not WEIGHT or not uses:
        return
    sources = tuple(replace(s, transposed=not s.transposed) for s in stored_in(weight))
    type_ = TensorType(weight.types[0].shape[::-1], DType.FLOAT)
    home.update(weight, attributes={**weight.attributes, "sources": sources})
    for where, each in reuse.handed(home, value):  # the weight itself, and inputs of loops' bodies
        made = where.node(each)
        where.update(made, attributes={**made.attributes, "type": type_}, types=(type_,))
    for where, (use,) in uses:
        where.update(use, attributes={**use.attributes, "layout": "out_in"})
