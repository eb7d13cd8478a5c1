"""Zeros that enter a first layer: whether they need not be there, as kernels can do without them."""

from __future__ import annotations

from dataclasses import dataclass

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.ops.structure import LOOP, ZEROS
from archc.ir.rule import rule_of


@dataclass(frozen=True)
class OptionalInputs:
    """Inputs of loop bodies, as (graph, input), that are None at first, and the norms that read them."""

    inputs: frozenset[tuple[int, int]]
    readers: list[tuple[Graph, Node]]


def optional_inputs(graph: Graph) -> OptionalInputs:
    """Those of a graph: its first layer has nothing to add to the residual stream."""
    inputs: set[tuple[int, int]] = set()
    readers: list[tuple[Graph, Node]] = []
    for part in graph.walk():
        for node in part.nodes():
            if may_be_none(part, node):
                for loop, place in part.users(node.outputs[0]):
                    for body in loop.bodies:
                        value = body.inputs[place]
                        inputs.add((id(body), value.node))
                        readers += [(body, reader) for reader, _ in body.users(value)]
    return OptionalInputs(frozenset(inputs), readers)


def may_be_none(graph: Graph, node: Node) -> bool:
    """Whether these are zeros that bodies of loops read, only ever to add them inside of a norm kernel."""
    return node.op is ZEROS and all(
        loop.op is LOOP
        and any(body.users(body.inputs[place]) for body in loop.bodies)
        and all(_only_added(body, body.inputs[place]) for body in loop.bodies)
        for loop, place in graph.users(node.outputs[0])
    )


def _only_added(body: Graph, value: Value) -> bool:
    return all(_adds(body, reader, place) for reader, place in body.users(value))


def _adds(body: Graph, reader: Node, place: int) -> bool:
    """Whether an operand is one that a norm kernel adds to the residual stream, or the weight of its norm."""
    rule = rule_of(reader)
    if rule is None or rule.family != "norm" or len(rule.outputs) == 1:
        return False
    rows = [name for name in rule.operands if name != "residual"]
    if place < len(rule.operands):
        return rule.operands[place] in rows
    normed = [name for name in rows if rule.inputs[place] in rule.norms_of([name])]
    values = [reader.named[name] for name in normed if name in reader.named]
    return bool(normed) and all(value in body.inputs and _only_added(body, value) for value in values)
