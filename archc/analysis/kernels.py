"""The kernels of a fused graph, with what each computes and moves.

A kernel reads its operands and writes its results once.  What an op costs is told by its declaration.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import inf

from archc.analysis.parameters import HEAD
from archc.ir.graph import Graph
from archc.ir.head import last_linear
from archc.ir.node import Node, Value, stored_in
from archc.ir.op import Op, Trait
from archc.ir.ops.experts import SORT_CHOICES
from archc.ir.ops.numbers import CONSTANTS
from archc.ir.ops.recurrence import CARRIED, NEW_POSITIONS
from archc.ir.ops.structure import (
    APPEND,
    BRANCH,
    CONSTANT,
    EXPERTS,
    INPUT,
    KEEP,
    LOOP,
    OF_ITERATION,
    SCAN,
    WEIGHT,
    ZEROS,
)
from archc.ir.paths import Path
from archc.ir.program import sequences
from archc.ir.rule import decomposition, rule_of
from archc.ir.types import ROWS, DType, TensorType, apart


@dataclass(frozen=True)
class Work:
    """FLOPs of matrix products, FLOPs of everything else, and bytes read and written."""

    matrix: int = 0
    vector: int = 0
    bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.matrix + other.matrix, self.vector + other.vector, self.bytes + other.bytes)

    def __mul__(self, times: int) -> Work:
        return Work(self.matrix * times, self.vector * times, self.bytes * times)


@dataclass(frozen=True)
class Kernel:
    """A launch that happens `times` times in a forward pass; `role` is that of its weight, if it has one."""

    op: str
    role: str
    times: int
    work: Work

    @property
    def kind(self) -> str:
        """What it is called in tables: `linear (mlp)`, `add_rms_norm`."""
        return f"{self.op} ({self.role})" if self.role else self.op


@dataclass(frozen=True)
class Shape:
    """The size of a call: `tokens` new ones of each of `batch` sequences, the last of `context` each.

    logits: how many of the new tokens the head is applied to
    """

    batch: int
    tokens: int
    context: int
    logits: int

    def sizes(self, graph: Graph, tokens: int | None = None, grows: str = "T") -> Mapping[str, int]:
        """Numbers for a graph's symbolic dims: new tokens lie along `grows`, other sequences are contexts."""
        new = tokens or self.tokens
        usual = {"B": self.batch, grows: new, "S": self.context, ROWS: self.batch * new * choices_of(graph)}
        return defaultdict(lambda: self.context, usual)


def kernels(root: Graph, shape: Shape, element: int, roles: Mapping[Path, str]) -> Iterator[Kernel]:
    """The kernels of one forward pass; `element` is the size of the model's dtype in bytes.

    What stands in a scan runs for each token by itself.
    """
    heads = [last_linear(root, value) for _, value in root.outputs]
    grows = growing_dim(root)
    steps = [body for part in root.walk() for scan in part.scans() for body in scan.bodies]
    for graph, times in root.runs(new=shape.tokens if shape.tokens < shape.context else inf):
        runs, tokens = (times * shape.tokens, 1) if graph in steps else (times, None)
        for node in graph.nodes():
            if node.op in _FREE or node.op.has(Trait.VIEW):
                continue
            if shape.tokens < shape.context and _is_fixed(node, grows):
                continue
            is_head = graph is root and node in heads
            sizes = shape.sizes(graph, shape.logits if is_head else tokens, grows)
            work = node_flops(graph, node, sizes) + Work(bytes=node_bytes(graph, node, sizes, element))
            yield Kernel(node.op.name, HEAD if is_head else _role(graph, node, roles), runs, work)


def growing_dim(root: Graph) -> str:
    """The dim along which decoding adds tokens: that of the last sequence."""
    dims = [sequence.dims for sequence in sequences(root)]
    return str(dims[-1][1]) if dims and len(dims[-1]) > 1 else "T"


def _is_fixed(node: Node, grows: str) -> bool:
    """Whether a value belongs to a sequence that no tokens are added to: it was computed with the first."""
    dims = {apart(dim)[1] for type_ in node.types for dim in type_.shape[1:] if isinstance(dim, str)}
    return bool(dims - {grows, "S", ROWS})


def choices_of(graph: Graph) -> int:
    """How many experts a token chooses where their rows are computed together; the body of one takes 1."""
    sorts = [node.inputs[0] for node in graph.nodes() if node.op is SORT_CHOICES]
    return max((int(graph.type(chosen).width) for chosen in sorts if chosen is not None), default=1)


# Attention keeps keys and values itself, a recurrence its state, and zeros that enter the first layer are
# not there at all.
_FREE = (
    *(INPUT, WEIGHT, CONSTANT, CONSTANTS, ZEROS, APPEND, KEEP, CARRIED, NEW_POSITIONS, OF_ITERATION),
    *(LOOP, EXPERTS, SCAN, BRANCH),
)


def node_flops(graph: Graph, node: Node, sizes: Mapping[str, int]) -> Work:
    """The FLOPs of a node with `sizes` for symbolic dims; those of a fused op are its decomposition's."""
    if rule_of(node) is None:
        flops = node.op.flops(node.op.call(graph.input_types(node, sizes), node.attributes))
        return Work(matrix=flops) if node.op.has(Trait.MATRIX) else Work(vector=flops)
    steps = decomposition(graph, node, sizes)
    return sum((node_flops(steps, step, {}) for step in steps.nodes()), Work())


def node_bytes(graph: Graph, node: Node, sizes: Mapping[str, int], element: int) -> int:
    """The bytes that a node reads and writes; of several views of one tensor each byte is read once.

    A state that the node carries is read, and written where it lies.
    """
    types = graph.input_types(node, sizes)
    partly = node.op.reads(node.op.call(types, node.attributes))
    parts: dict[Value, list[tuple[int, float]]] = {}  # by tensor: the bytes of each view, which part is read
    for place, (value, type_) in enumerate(zip(node.inputs, types, strict=True)):
        if value is not None and type_ is not None:
            name = node.op.operands[place].name if not node.op.variadic else ""
            share = min(partly.get(name, type_.numel()) / (type_.numel() or 1), 1.0)
            parts.setdefault(base_of(graph, value), []).append((type_bytes(type_, element), share))
    read = (
        min(
            sum(round(size * share) for size, share in views),
            round(type_bytes(graph.type(base).bind(sizes), element) * max(share for _, share in views)),
        )
        for base, views in parts.items()
    )
    written = list(node.types)
    if node.op.carries and (state := node.named.get("state")) is not None:
        written.append(graph.type(state))
    return sum(read) + sum(type_bytes(type_.bind(sizes), element) for type_ in written)


def base_of(graph: Graph, value: Value, through: Collection[Op] = ()) -> Value:
    """The tensor that a value is a view of, or itself; ops in `through` are seen through as views are."""
    node = graph.node(value)
    while node.op.has(Trait.VIEW) or node.op in through:
        value = node.first
        node = graph.node(value)
    return value


def type_bytes(type_: TensorType, element: int) -> int:
    """The bytes of a tensor."""
    sizes = {DType.FLOAT: element, DType.F32: 4, DType.I64: 8, DType.BOOL: 1, DType.SCALAR: 0}
    return sizes[type_.dtype] * type_.numel()


def _role(graph: Graph, node: Node, roles: Mapping[Path, str]) -> str:
    """The role of a linear map's weight; a fused one holds several of the same role."""
    weight = graph.node(node.operands[1]) if node.op.has(Trait.LINEAR) else None
    if weight is None or weight.op is not WEIGHT:
        return ""
    return roles.get(stored_in(weight)[0].path, "")
