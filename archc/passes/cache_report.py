"""What the report says of the planned cache."""

from __future__ import annotations

from collections.abc import Sequence

from archc.ir.graph import Graph
from archc.ir.node import Value
from archc.ir.types import TensorType
from archc.passes.absorb import Absorption, bytes_of
from archc.passes.context import place_of
from archc.passes.cut import Cut
from archc.passes.standing import Place
from archc.target import Target


def describe(graph: Graph, times: int, cut: Cut, target: Target) -> str:
    """What a graph keeps, what of it attention takes over, and why it does not where it could."""
    readers = [node for part, node in cut.readers if part is graph]
    kept = cut.kept_in(graph)
    placed = readers or [graph.node(value) for value in kept]
    place = ", ".join(dict.fromkeys(map(place_of, placed)))
    layers = f" in each of {times} layers" if times > 1 else ""
    names = " + ".join(_kept_text(graph, value, cut) for value in kept) or "nothing of its own"
    text = f"{place}: decoding keeps {names}" + (_bytes_text(graph, kept, cut) if kept else "") + layers
    read = dict.fromkeys(leaf for r in readers for goal in r.past for leaf in cut.leaves(graph, goal))
    taken = [_name(graph, value, cut) for value in read if value not in kept]
    if taken:
        text += f"; {' and '.join(taken)} {'are' if len(taken) > 1 else 'is'} kept by an earlier layer"
    for reader in readers:
        absorption = Absorption.of(graph, reader, cut.here(graph))
        if absorption:
            text += f"; attention absorbs what makes keys and values: {absorption.gain(target)}"
    refused = [cut.refused.get((graph, reader.id)) for reader in readers]
    for reason in dict.fromkeys(filter(None, refused)):
        text += f"; fewer bytes would do, but {reason}"
    return text


def _bytes_text(graph: Graph, kept: Sequence[Value], cut: Cut) -> str:
    """What a token adds, first and once its place in rings was another's."""
    sizes = {value: bytes_of(graph.type(value)) for value in kept}
    each = sum(sizes.values())
    lasting = sum(size for value, size in sizes.items() if cut.length(Place(graph, value)) is None)
    return f", {each:,} bytes a token" + (f" ({lasting:,} once rings are full)" if lasting < each else "")


def _kept_text(graph: Graph, value: Value, cut: Cut) -> str:
    length = cut.length(Place(graph, value))
    last = "" if length is None else f" of the last {length:,} tokens"
    return f"{_name(graph, value, cut)} {_size(graph.type(value))}{last}"


def _name(graph: Graph, value: Value, cut: Cut) -> str:
    if graph.name_of(value):
        return graph.name_of(value)
    readers = [node for part, node in cut.readers if part is graph]
    return next((name for r in readers for name in r.op.past if r.named.get(name) == value), "a value")


def _size(type_: TensorType) -> str:
    """What one token has of a value: `8 x 128`."""
    return " x ".join(str(dim) for dim in type_.shape[2:])
