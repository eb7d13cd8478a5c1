"""Attention that reads the latent its keys and values are made from, instead of keys and values.

If a head's keys are linear in something that all heads share, so are its scores: the keys' map moves to the
queries, the values' map to the weighted sum.  In exact arithmetic nothing changes; only sums are reordered.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS, Trait
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.shape import CONCAT, MERGE_HEADS, SPLIT, SPLIT_HEADS
from archc.ir.ops.structure import INPUT
from archc.ir.types import TensorType

SLICE, EXPAND_HEADS = OPS["slice"], OPS["expand_heads"]


@dataclass(frozen=True)
class _Part:
    """Values of each head: columns of a kept value, or their image under each head's `rows` of a weight.

    `name` is that of the columns in the spec.
    """

    kept: Value
    start: int
    end: int
    name: str = field(compare=False)
    rows: Value | None = None


def absorbed_form(form: Graph) -> Graph | None:
    """A graph that computes what `form` does without the keys and values that it makes, or None.

    form: its inputs are what is kept of tokens, the weights, and what else attention reads; its only output
          is that of the one op that reads the past, whose keys and values come from those inputs by linear
          maps without bias, by splits, concatenations and heads.  Other ops than attention absorb nothing.
    """
    reader = form.node(form.outputs[0][1])
    return _Absorber(form).run() if {"q", "k", "v"} <= {each.name for each in reader.op.operands} else None


def is_plain_map(node: Node) -> bool:
    """Whether a node is x W^T, which attention can absorb."""
    return node.op is LINEAR and node.inputs[2] is None and node.attributes["layout"] == "out_in"


class _Absorber:
    def __init__(self, form: Graph):
        self.form = form
        self.graph = Graph(f"{form.name}.absorbed")
        self._moved: dict[Value, Value] = {}
        self._made: dict[tuple[str, Value, str], Node] = {}

    def run(self) -> Graph | None:
        for value in self.form.inputs:
            node = self.form.node(value)
            self._moved[value] = self.graph.add_input(self.form.name_of(value), node.types[0], node.span)
        self.graph.inputs = [self._moved[value] for value in self.form.inputs]
        name, result = self.form.outputs[0]
        attend = self.form.node(result)
        q, k, v, *_ = attend.operands
        if q not in self._moved:
            return None  # queries are made of the same, by the keys' own map
        keys, values = self._parts(k), self._parts(v)
        if keys is None or values is None or len(values) != 1 or not any(p.rows for p in (*keys, *values)):
            return None
        if len(keys) > 1 and any(self._heads(part) > 1 for part in keys):
            return None
        heads = max(self._heads(part) for part in (*keys, *values))
        k, q = self._keys(keys, q, attend)
        v = self._columns(values[0])
        given = {"q": q, "k": self._expand(k, heads), "v": self._expand(v, heads)}
        operands = [
            given[operand.name] if operand.name in given else self._moved.get(value) if value else None
            for operand, value in zip(attend.op.operands, attend.inputs, strict=True)
        ]
        o = self.graph.add_like(attend, attend.op, operands, attend.attributes).outputs[0]
        if values[0].rows is not None:
            o = self._absorb("absorb_values", attend, o, values[0].rows)
        self.graph.outputs = [(name, o)]
        return self.graph

    def _parts(self, value: Value) -> list[_Part] | None:
        """What makes up heads [B, S, heads, width], in order of their columns."""
        node = self.form.node(value)
        if node.op is CONCAT:
            found = [self._parts(each) for each in node.operands]
            return None if None in found else [part for parts in found for part in parts or ()]
        if node.op is EXPAND_HEADS:
            return self._parts(node.first)
        part = self._columns_of(value) or self._image(value)
        if part is None or (part.rows is not None and len(self.graph.type(part.rows).shape) != 3):
            return None
        return [part]

    def _columns_of(self, value: Value) -> _Part | None:
        """A value that is some columns of what is kept."""
        node = self.form.node(value)
        if node.op is INPUT:
            return _Part(value, 0, _width(node.types[0]), self.form.name_of(value))
        if not self._only_rearranges(node):
            return None
        inner = self._columns_of(node.first)
        if inner is None or node.op is SPLIT_HEADS or node.op is MERGE_HEADS:
            return inner
        start, end = _columns_read(node, value)
        name = self.form.name_of(value) or inner.name
        return replace(inner, start=inner.start + start, end=inner.start + end, name=name)

    def _only_rearranges(self, node: Node) -> bool:
        """Whether a node takes columns, or gives or removes a dim of a single head."""
        if node.op is SPLIT_HEADS:
            return bool(node.attributes["heads"] == 1)
        if node.op is MERGE_HEADS:
            return self.form.type(node.first).shape[-2] == 1
        return node.op is SPLIT or node.op is SLICE

    def _image(self, value: Value) -> _Part | None:
        """A value of heads that is linear in something all heads share."""
        node = self.form.node(value)
        if node.op.has(Trait.LINEAR):
            x, weight, *_ = node.operands
            part = self._columns_of(x)
            if part is None or self._heads(part) > 1 or not is_plain_map(node):
                return None
            return replace(part, rows=self._moved[weight])
        if node.op is not SPLIT and node.op is not SLICE and node.op is not SPLIT_HEADS:
            return None
        part = self._image(node.first)
        if part is None or part.rows is None:
            return None
        return replace(part, rows=self._rows_read(node, value, part.rows))

    def _rows_read(self, node: Node, value: Value, rows: Value) -> Value | None:
        """The rows that make a value, of those that make what it is taken from."""
        if node.op is SPLIT_HEADS:
            return self._make(node, "head_rows", rows, {"heads": node.attributes["heads"]}).outputs[0]
        sizes = _sizes(node, _width(self.form.type(node.first)))
        start, _ = _columns_read(node, value)
        names = tuple(f"w_{name}" if name else "" for name in node.names) if node.op is SPLIT else ()
        split = self._make(node, "split_rows", rows, {"sizes": sizes}, names)
        return split.outputs[list(accumulate(sizes, initial=0)).index(start)]

    def _keys(self, parts: list[_Part], q: Value, attend: Node) -> tuple[Value, Value]:
        """What queries meet, and the queries that meet it."""
        queries: dict[_Part, Value] = {}
        for part, query in zip(parts, self._split_queries(parts, self._moved[q], attend), strict=True):
            columns = replace(part, rows=None)
            if part.rows is not None:
                query = self._absorb("absorb_keys", attend, query, part.rows, f"q_{part.name}")
            if columns in queries:
                query = self.graph.add_like(attend, OPS["add"], [queries[columns], query]).outputs[0]
            queries[columns] = query
        order = sorted(queries, key=lambda columns: (columns.kept, columns.start))
        whole = self._union(order)
        parts = [whole] if whole else order
        k = self._concat([self._columns(columns) for columns in parts], attend, "k")
        return k, self._concat([queries[columns] for columns in order], attend, "q")

    def _union(self, parts: list[_Part]) -> _Part | None:
        """All columns of what is kept, where that is what parts are side by side."""
        whole = self._columns_of(parts[0].kept)
        ends = [0, *(part.end for part in parts)]
        adjacent = all(
            part.kept == parts[0].kept and part.start == end for part, end in zip(parts, ends, strict=False)
        )
        return whole if whole is not None and adjacent and ends[-1] == whole.end else None

    def _split_queries(self, parts: list[_Part], q: Value, attend: Node) -> list[Value]:
        if len(parts) == 1:
            return [q]
        sizes = tuple(
            _width(self.graph.type(part.rows), -2) if part.rows is not None else part.end - part.start
            for part in parts
        )
        names = tuple(f"q_{part.name}" for part in parts)
        return list(self.graph.add_like(attend, SPLIT, [q], {"sizes": sizes}, names=names).outputs)

    def _absorb(self, op: str, attend: Node, value: Value, rows: Value, name: str = "") -> Value:
        heads, weights = self.graph.type(value).shape[2], self.graph.type(rows).shape[0]
        assert isinstance(heads, int)
        assert isinstance(weights, int)
        attributes = {"group": heads // weights}
        return self.graph.add_like(attend, OPS[op], [value, rows], attributes, names=(name,)).outputs[0]

    def _concat(self, values: list[Value], origin: Node, name: str) -> Value:
        if len(values) == 1:
            return values[0]
        return self.graph.add_like(origin, CONCAT, values, names=(name,)).outputs[0]

    def _columns(self, part: _Part) -> Value:
        """Columns of what is kept, as heads."""
        value = self._moved[part.kept]
        node, width = self.form.node(part.kept), _width(self.form.type(part.kept))
        if len(node.types[0].shape) == 3:
            value = self._make(node, "split_heads", value, {"heads": 1}).outputs[0]
        if part.end - part.start == width:
            return value
        sizes = [part.start, part.end - part.start, width - part.end]
        place = int(part.start > 0)
        names = ("",) * place + (part.name,)
        return self._make(node, "split", value, {"sizes": tuple(s for s in sizes if s)}, names).outputs[place]

    def _expand(self, value: Value, heads: int) -> Value:
        if self.graph.type(value).shape[2] == heads:
            return value
        origin = self.graph.node(value)
        return self.graph.add_like(origin, EXPAND_HEADS, [value], {"heads": heads}).outputs[0]

    def _make(
        self, origin: Node, op: str, value: Value, attributes: dict[str, object], names: tuple[str, ...] = ()
    ) -> Node:
        """A node, the same one for the same rearrangement of the same value."""
        key = (op, value, repr(attributes))
        if key not in self._made:
            self._made[key] = self.graph.add_like(origin, OPS[op], [value], attributes, names=names)
        return self._made[key]

    def _heads(self, part: _Part) -> int:
        """How many heads a part of the keys or values must be read as."""
        shape = self.form.type(part.kept).shape
        return _width(self.form.type(part.kept), 2) if len(shape) == 4 else 1


def _columns_read(node: Node, value: Value) -> tuple[int, int]:
    """Which columns of its operand a split or slice takes for a value."""
    if node.op is SLICE:
        return node.attributes["start"], node.attributes["end"]
    start = sum(_width(type_) for type_ in node.types[: value.output])
    return start, start + _width(node.types[value.output])


def _sizes(node: Node, width: int) -> tuple[int, ...]:
    """The widths of all parts of a split or slice, those left out included."""
    if node.op is SPLIT:
        return tuple(_width(type_) for type_ in node.types)
    start, end = node.attributes["start"], node.attributes["end"]
    return tuple(size for size in (start, end - start, width - end) if size)


def _width(type_: TensorType, place: int = -1) -> int:
    size = type_.shape[place]
    assert isinstance(size, int)
    return size
