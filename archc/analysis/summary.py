"""Parameters, cache bytes and operations of a model, counted on its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from archc.ir.graph import Graph, Node
from archc.ir.ops.structure import APPEND, LOOP, WEIGHT
from archc.ir.rule import node_flops
from archc.ir.weights import enumerate_weights

_CACHE_ELEMENT_BYTES = 2  # bfloat16


@dataclass(frozen=True)
class Summary:
    """Counts of one model.

    parameters:            all, each shared one once
    embedding_parameters:  those of tables that are only looked up in
    kv_bytes_per_token:    what one token leaves in the cache, in bfloat16
    flops_per_token:       forward, without attention over the context
    flops_per_context:     forward, for each token of context that is attended to
    """

    parameters: int
    embedding_parameters: int
    kv_bytes_per_token: int
    flops_per_token: int
    flops_per_context: int


def summarise(graph: Graph) -> Summary:
    """The counts of a graph whose cache has been planned."""
    weights = [node for node, _ in enumerate_weights(graph)]
    short, long = _flops(graph, 1), _flops(graph, 2)
    return Summary(
        parameters=sum(node.types[0].numel() for node in weights),
        embedding_parameters=_embedding_parameters(graph),
        kv_bytes_per_token=_CACHE_ELEMENT_BYTES * _kept_elements(graph),
        flops_per_token=2 * short - long,
        flops_per_context=long - short,
    )


def _embedding_parameters(graph: Graph) -> int:
    total = 0
    for node in graph.nodes():
        users = graph.users(node.outputs[0]) if node.op is WEIGHT else []
        if users and all(user.op.name == "embedding" for user, _ in users):
            total += node.types[0].numel()
    return total


def _kept_elements(graph: Graph) -> int:
    """Elements that one token leaves in the cache, over all layers."""
    total = 0
    for node in graph.nodes():
        if node.op is APPEND:
            total += (
                node.types[0].bind({str(d): 1 for d in node.types[0].shape if isinstance(d, str)}).numel()
            )
        elif node.op is LOOP:
            total += _over_iterations(node, {body: _kept_elements(body) for body in node.bodies})
    return total


def _flops(graph: Graph, context: int) -> int:
    """Operations for one token of one sequence with a context of `context` tokens."""
    total = 0
    for node in graph.nodes():
        if node.op is LOOP:
            total += _over_iterations(node, {body: _flops(body, context) for body in node.bodies})
        elif node.op is not WEIGHT:
            total += node_flops(graph, node, _Sizes(context))
    return total


def _over_iterations(loop: Node, counts: Mapping[Graph, int]) -> int:
    per_body = [counts[body] for body in loop.bodies]
    return sum(per_body[number] for number in loop.attributes["schedule"])


class _Sizes(dict[str, int]):
    """One token of one sequence: every symbolic dim is 1, but for that of the context."""

    def __init__(self, context: int):
        super().__init__(S=context)

    def __missing__(self, name: str) -> int:
        return 1
