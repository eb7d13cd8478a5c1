"""Floating-point operations of a model for each token."""

from __future__ import annotations

from dataclasses import dataclass

from archc.analysis.kernels import Shape, Work, growing_dim, node_flops
from archc.ir.graph import Graph
from archc.ir.ops.structure import EXPERTS, LOOP, SCAN, WEIGHT


@dataclass(frozen=True)
class Flops:
    """FLOPs of matrix products for one token, in the mean over a sequence of `context` tokens.

    per_token:          forward: `weights` and `attention`
    weights:            products with weights, two for each parameter that takes part
    attention:          scores of the keys that a token sees, and the sum of their values; changes of a state
    training_per_token: forward and backward, which has twice as many
    elementwise:        forward, of norms, activations and all else that is no matrix product; not in these
    """

    context: int
    per_token: int
    weights: int
    attention: int
    training_per_token: int
    elementwise: int


def count_flops(root: Graph, context: int) -> Flops:
    """The FLOPs of a graph at whole sequences of `context` tokens."""
    weights, attention = Work(), Work()
    shape = Shape(1, context, context, context)
    for graph, times in root.runs():
        sizes = shape.sizes(graph, grows=growing_dim(root))
        for node in graph.nodes():
            if node.op in (LOOP, EXPERTS, SCAN, WEIGHT):
                continue
            work = node_flops(graph, node, sizes) * times
            if node.op.past or node.op.carries:
                attention += work
            else:
                weights += work
    forward = weights.matrix + attention.matrix
    return Flops(
        context=context,
        per_token=forward // context,
        weights=weights.matrix // context,
        attention=attention.matrix // context,
        training_per_token=3 * forward // context,
        elementwise=(weights.vector + attention.vector) // context,
    )
