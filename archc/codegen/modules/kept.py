"""What a cache keeps: values of each token, and values that stay the same, for which there is a method."""

from __future__ import annotations

from archc.codegen.literals import size_code, tuple_text
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.recurrence import CARRIED
from archc.ir.ops.structure import APPEND, CONSTANT, INPUT, KEEP, LOSSES, WEIGHT
from archc.ir.ops.training import IN_TRAINING
from archc.ir.rule import rule_of
from archc.ir.types import DType

PAST = ("attention", "convolution")  # families whose kernels read the past


class KeptPart:
    """The nodes of a graph that only its `keep` nodes need.

    keeps:  those nodes
    inputs: what the part reads of the graph's inputs
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.keeps = [node for node in graph.nodes() if node.op is KEEP]
        self._numbers = _only_kept(graph) if self.keeps else set()
        self.inputs = [value for value in graph.inputs if self.keeps and self._reads(value)]

    def __contains__(self, node: Node) -> bool:
        return node.id in self._numbers

    def _reads(self, value: Value) -> bool:
        return any(user in self or user.op is KEEP for user, _ in self.graph.users(value))

    @property
    def trains(self) -> bool:
        """Whether there is something in it for training alone."""
        return any(trains(body) for node in self.graph.nodes() if node in self for body in node.bodies)

    @property
    def values(self) -> list[Value]:
        """What is kept, as the rest of the graph reads it."""
        return [keep.outputs[0] for keep in self.keeps]

    def alone(self) -> Graph:
        """The part as a graph, whose nodes keep their numbers."""
        outputs = [(self.graph.name_of(keep.outputs[0]), keep.inputs[0]) for keep in self.keeps]
        part = self.graph.part([(name, value) for name, value in outputs if value is not None])
        part.inputs = list(self.inputs)
        return part


def _only_kept(graph: Graph) -> set[int]:
    needed: set[int] = set()
    waiting = [value.node for _, value in graph.outputs]
    waiting += [node.id for node in graph.nodes() if node.op.has(Trait.EFFECT)]
    while waiting:
        node = graph.node(waiting.pop())
        if node.id not in needed:
            needed.add(node.id)
            waiting += [] if node.op is KEEP else [value.node for value in node.operands]
    others = [node for node in graph.nodes() if node.id not in needed]
    return {node.id for node in others if node.op not in (INPUT, WEIGHT, CONSTANT)}


def trains(graph: Graph) -> bool:
    """Whether a graph, or a loop in it, computes something for training alone."""
    return any(node.op in (*IN_TRAINING, LOSSES) for part in graph.walk() for node in part.nodes())


def kept_by(graph: Graph, node: Node) -> list[Node]:
    """The `append` nodes that a reader carries out itself: it works on the cache and reads them alone."""
    rule = rule_of(node)
    if not (rule.family in PAST if rule else node.op.module):
        return []
    kept = [graph.node(value) for value in node.past]
    alone = all(each.op is APPEND and graph.only_user(each.outputs[0]) is not None for each in kept)
    return kept if alone else []


def kept_by_readers(graph: Graph) -> set[int]:
    """The numbers of the `append` nodes of a graph that their readers carry out."""
    return {kept.id for node in graph.nodes() for kept in kept_by(graph, node)}


def appends(graph: Graph) -> list[Node]:
    """The nodes that keep something of tokens; both forms of a branch keep the same."""
    parts = [graph, *(branch.bodies[0] for branch in graph.branches())]
    return [node for part in parts for node in part.nodes() if node.op in (APPEND, CARRIED)]


def slot_code(append: Node) -> str:
    """What one token leaves in a slot, as Python, and how many tokens stay there if not all."""
    if append.op is CARRIED:
        return f"Carried({tuple_text([size_code(dim) for dim in append.types[0].shape[1:]])})"
    shape = tuple_text([size_code(dim) for dim in append.types[0].shape[2:]])
    length = append.attributes["length"]
    if append.types[0].dtype is DType.I64:
        return f"Numbers({shape})"
    slot = shape if length is None else f"Ring({size_code(length)}, {shape})"
    return f"Wide({slot})" if append.types[0].dtype is DType.F32 else slot
