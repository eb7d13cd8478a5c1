"""A model's dataflow as lines of text, and how two models differ in it.

A line is an op with the ops that it reads and the attributes that say how it computes, where they are not the
usual ones.  Sizes are left out: models that differ in nothing else have the same dataflow.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from math import fsum
from typing import Any

from archc.analysis.kernels import base_of
from archc.analysis.parameters import layers_of
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.numbers import CONSTANTS
from archc.ir.ops.recurrence import CARRIED, NEW_POSITIONS
from archc.ir.ops.structure import APPEND, CONSTANT, INPUT, KEEP, LOOP, SCAN, WEIGHT
from archc.ir.records import Record, attribute_text

_SILENT = (INPUT, WEIGHT, CONSTANT, APPEND, KEEP, CARRIED, NEW_POSITIONS)

_SHOWN = 8  # numbers of a list that is written out


@dataclass(frozen=True)
class Difference:
    """Lines of a part of one model, such as a layer, and what stands in their place in the other."""

    part: str
    removed: tuple[str, ...]
    added: tuple[str, ...]


def differences(a: Graph, b: Graph) -> list[Difference]:
    """Where the dataflow of two unfused graphs differs, in program order."""
    left, right = list(_parts(a)), list(_parts(b))
    texts, others = [part for _, part in left], [part for _, part in right]
    found: list[Difference] = []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, texts, others, autojunk=False).get_opcodes():
        if tag == "replace":
            pairs = min(j - i, m - k)
            for n in range(pairs):
                found += _within(left[i + n], right[k + n])
            i, k = i + pairs, k + pairs
        if tag != "equal":
            found += [Difference(name, part, ()) for name, part in left[i:j]]
            found += [Difference(name, (), part) for name, part in right[k:m]]
    return found


def _within(left: tuple[str, tuple[str, ...]], right: tuple[str, tuple[str, ...]]) -> Iterator[Difference]:
    name = left[0] if left[0] == right[0] else f"{left[0]} / {right[0]}"
    matcher = difflib.SequenceMatcher(None, left[1], right[1], autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag != "equal":
            yield Difference(name, left[1][i:j], right[1][k:m])


def _parts(root: Graph) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What is outside of layers, and each different layer, with its lines."""
    yield "model", tuple(_lines(root))
    for layer, body in layers_of(root):
        yield f"{layer.count} x {layer.kind}", tuple(_lines(body))


def _lines(graph: Graph) -> Iterator[str]:
    for node in graph.nodes():
        if node.op in _SILENT or node.op.has(Trait.VIEW):
            continue
        if node.op is SCAN:  # what its steps compute stands before it
            yield from (f"step: {line}" for line in _lines(node.bodies[0]))
        settings = [f"{name} = {value}" for name, value in _settings(node)]
        inner = f" {{{', '.join(settings)}}}" if settings else ""
        yield f"{_place(node)}{node.op.name}({', '.join(_operands(graph, node))}){inner}"


def _operands(graph: Graph, node: Node) -> Iterator[str]:
    """What a node reads: no weights but biases, no positions where there is something else."""
    varying = [value for value in node.operands if graph.type(value).dtype.is_floating]
    for place, value in enumerate(node.inputs):
        if value is None or (varying and value not in varying):
            continue
        if graph.node(value).op is not WEIGHT:
            yield _source(graph, value)
        elif not node.op.variadic and node.op.operands[place].name != "weight":
            yield "bias"


def _settings(node: Node) -> Iterator[tuple[str, str]]:
    """The attributes that say how an op computes: all but sizes and what is usual."""
    for name, value in node.attributes.items() if node.op is not LOOP else ():
        usual = node.op.attributes[name].default if name in node.op.attributes else None
        if isinstance(value, float) and value != usual:
            yield name, f"{float(value):.4g}"
        elif isinstance(value, bool | str | Record) and value != usual:
            yield name, attribute_text(value)
        elif node.op is CONSTANTS:
            yield name, _numbers_text(value)


def _numbers_text(values: tuple[Any, ...]) -> str:
    """Numbers of a spec; of many the first, the last, and their sum."""
    flat = _flat(values)
    if len(flat) <= _SHOWN:
        return attribute_text(values)
    return f"{flat[0]:.4g} ... {flat[-1]:.4g}, sum {fsum(flat):.6g}"


def _flat(values: Any) -> list[float]:
    return [number for value in values for number in _flat(value)] if isinstance(values, tuple) else [values]


def _place(node: Node) -> str:
    """The block of the spec that the op stands in."""
    return f"{node.scope.block}: " if node.scope is not None else ""


def _source(graph: Graph, value: Value) -> str:
    """The op that a value comes from, seen through views."""
    value = base_of(graph, value, (APPEND, KEEP))
    node = graph.node(value)
    if node.op is CONSTANT:
        return f"{node.attributes['value']:.4g}"
    return graph.name_of(value) if node.op in (INPUT, LOOP) else node.op.name
