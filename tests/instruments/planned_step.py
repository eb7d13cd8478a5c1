"""What one decoding step does on a GPU, planned from the graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from archc.analysis.kernels import choices_of
from archc.codegen.kernels.linear.pairs import Pair, linears_after
from archc.codegen.modules.kept import KeptPart, kept_by_readers
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.recurrence import CARRIED, NEW_POSITIONS
from archc.ir.ops.structure import (
    APPEND,
    BRANCH,
    CONSTANT,
    INPUT,
    KEEP,
    LOOP,
    LOSSES,
    OF_ITERATION,
    RECENT,
    SCAN,
    WEIGHT,
    ZEROS,
)
from archc.ir.program import sequences
from archc.ir.rule import rule_of
from archc.ir.scan_form import scan_form
from archc.ir.types import ROWS, DType, TensorType, size_of
from tests.instruments.work import Count, Work, bytes_of, idle_bytes

# Launches beside the graph's: the token's place among the keys and two counts of the cache, the choice of the
# likeliest token, its two copies and their count.
_BOOKKEEPING = 7
_RING = 2  # the token's place in rings of one length, and its position there
# Launches of what is several: which rows, then they themselves; scores of keys, the best, and their places.
_SEVERAL = {"dispatch": 2, "select_keys": 3}


def planned_step(graph: Graph, batch: int, context: int) -> Work:
    """The work of one step in bfloat16 after `context` tokens, by a fused graph.

    A kernel is one launch that reads its operands and writes its results once; an op of its own launches what
    its reference function does.
    """
    *others, _ = sequences(graph)
    known = {str(other.dims[1]): context for other in others}  # an encoder's tokens
    planner = _Planner(_with({}, B=batch, S=context + 1, **known))
    planner.add(graph)
    work = planner.work
    kept = [node for part in graph.walk() for node in part.nodes() if node.op is APPEND]
    rings = {node.attributes["length"] for node in kept} - {None}
    turning = sum(length <= context for length in rings)
    work.add("bookkeeping", _BOOKKEEPING + _RING * turning, 0)
    return work


def layer_launches(layer: Graph) -> int:
    """The launches of a layer of a fused graph for one new token of one sequence."""
    planner = _Planner(_with({}, S=2))
    planner.add(layer)
    return planner.work.count


# Attention that alone reads its keys and values keeps them itself, and zeros that enter the first layer
# are not there at all; terms of the loss are not computed.
_FREE = (INPUT, WEIGHT, CONSTANT, ZEROS, APPEND, KEEP, RECENT, LOSSES, CARRIED, NEW_POSITIONS, OF_ITERATION)


class _Planner:
    """Adds up the work of graphs, with `sizes` for open dims."""

    def __init__(self, sizes: Mapping[str, int]):
        self.sizes = sizes
        self.work = Work()

    def add(self, graph: Graph, times: int = 1) -> dict[Value, Any]:
        """Add the work of a graph; what reference functions made, as it lies in memory."""
        kept = KeptPart(graph)  # computed before the first step, as is what follows from no token
        made: dict[Value, Any] = {}
        by_readers = kept_by_readers(graph)
        pairs = linears_after(graph).items()
        after = {number: pair for number, pair in pairs if self._is_one_row(graph, pair.linear)}
        inside = {pair.linear.id for pair in after.values()}
        for node in graph.nodes():
            if node in kept or node.op.fixed(node.attributes) or node.id in inside:
                continue
            if node.op is LOOP:
                for number, body in enumerate(node.bodies):
                    self.add(body, times * node.attributes["schedule"].count(number))
            elif node.op is SCAN:
                self.add(node.bodies[0], times)
                self._add_states(graph, node, times)
            elif node.op is BRANCH:
                inner = self.add(node.bodies[1], times)
                results = zip(node.outputs, node.bodies[1].outputs, strict=True)
                made.update((value, inner[result]) for value, (_, result) in results if result in inner)
            elif node.op is APPEND and node.id not in by_readers:
                (new,) = (self._meta(graph.type(v), self.sizes) for v in node.operands)
                self.work.add(node.op.name, 1, 2 * bytes_of(new), times)
            elif node.op is ZEROS and node.attributes["shape"] is not None:
                self.work.add(node.op.name, 1, bytes_of(self._meta(node.types[0], self.sizes)), times)
            elif node.op not in _FREE:
                self._add_node(graph, node, made, times)
                if node.id in after:
                    self._add_to_kernel(graph, after[node.id], times)
        return made

    def _is_one_row(self, graph: Graph, linear: Node) -> bool:
        assert linear.inputs[0] is not None
        type_ = graph.type(linear.inputs[0])
        row = self._meta(type_, self.sizes)
        return isinstance(row, Tensor) and row.numel() == row.shape[-1]

    def _add_to_kernel(self, graph: Graph, pair: Pair, times: int) -> None:
        """A linear map in the kernel of the op before it, which does not write what the map alone reads."""
        linear = pair.linear
        row, *weights = (self._meta(graph.type(v), self.sizes) for v in linear.operands)
        product = self._meta(linear.types[0], self.sizes)
        unwritten = 0 if pair.reading.kept else bytes_of(row)
        self.work.add(linear.op.name, 0, sum(map(bytes_of, (*weights, product))) - unwritten, times)

    def _add_states(self, graph: Graph, scan: Node, times: int) -> None:
        """What takes states that are not float32 out of a cache, what puts all back, and the result."""
        form = scan_form(scan)
        for state, start in zip(form.states, form.starts, strict=True):
            if state is not None:
                casts = graph.type(start).dtype is DType.FLOAT
                self.work.add(
                    scan.op.name,
                    1 + casts,
                    (1 + casts) * 2 * bytes_of(self._meta(graph.type(state), self.sizes)),
                    times,
                )
        self.work.add(scan.op.name, 1, 2 * bytes_of(self._meta(scan.types[0], self.sizes)), times)

    def _add_node(self, graph: Graph, node: Node, made: dict[Value, Any], times: int) -> None:
        sizes = _with(self.sizes, **{ROWS: self.sizes["B"] * choices_of(graph)})
        recent = [maker for maker in map(graph.node, filter(None, node.inputs)) if maker.op is RECENT]

        def operand(value: Value) -> Any:
            maker = recent[0] if recent and value in node.past else graph.node(value)
            kept = _kept_sizes(maker, sizes)
            return made[value] if value in made else self._meta(graph.type(value), kept)

        operands = [None if value is None else operand(value) for value in node.inputs]
        if rule_of(node) or node.op.module or node.op.carries:
            results = [self._meta(type_, sizes) for type_ in node.types]
            moved = sum(map(bytes_of, (*operands, *results))) - _unread(node, operands)
            if node.op.carries:
                moved += bytes_of(operands[-1])  # the state, which is written too
            self.work.add(node.op.name, _launches(node, operands), moved, times)
            return
        with Count() as count:
            result = node.op.reference(*operands, **node.attributes)
        several = result if isinstance(result, tuple | list) else [result]
        made.update(zip(node.outputs, several, strict=True))
        self.work.add(node.op.name, count.work.count, count.work.bytes, times)

    def _meta(self, type_: TensorType, sizes: Mapping[str, int]) -> Tensor | int:
        if type_.dtype is DType.SCALAR:
            return 1  # whole, so that positions stay whole with it
        kinds = {DType.F32: torch.float32, DType.I64: torch.int64, DType.BOOL: torch.bool}
        shape = [int(size_of(dim, sizes)) for dim in type_.shape]
        return torch.empty(shape, dtype=kinds.get(type_.dtype, torch.bfloat16), device="meta")


def _launches(node: Node, operands: list[Any]) -> int:
    """Of a fused op, or one of a package's own; attention over keys chosen of all is PyTorch's ops."""
    if rule_of(node) is None or "among" not in node.named or node.attributes["mask"].causal:
        return _SEVERAL.get(node.op.name, 1)
    with Count() as count:
        node.op.reference(*operands, **node.attributes)
    work: Work = count.work
    return work.count


def _kept_sizes(node: Node, sizes: Mapping[str, int]) -> Mapping[str, int]:
    """Sizes for what a node makes, or with where it stands: a ring gives no more tokens than it holds."""
    length = node.attributes.get("length")
    return sizes if length is None else _with(sizes, S=min(length, sizes["S"]))


def _with(sizes: Mapping[str, int], **others: int) -> Mapping[str, int]:
    """Sizes with some exchanged; any other dim has one element."""
    return defaultdict(lambda: 1, {**sizes, **others})


def _unread(node: Node, operands: list[Any]) -> int:
    """Bytes of operands that are passed but not read: where keys stand, without padding; idle experts."""
    if node.op.past:
        pairs = zip(node.op.operands, operands, strict=False)
        others = [value for operand, value in pairs if operand.name not in node.op.past]
        return sum(bytes_of(t) for t in others if isinstance(t, Tensor) and t.dtype == torch.int64)
    if node.op.module != "experts" or not node.op.has(Trait.MATRIX):
        return 0
    named = dict(zip((operand.name for operand in node.op.operands), operands, strict=False))
    rows = named.get("order", named["x"])
    return idle_bytes(named["weight"], len(rows))
