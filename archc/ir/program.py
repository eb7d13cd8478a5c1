"""A model as a graph, with what else the spec says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from archc.errors import Span
from archc.ir.graph import Graph, Node, Value
from archc.ir.paths import Path
from archc.ir.types import DType

T = TypeVar("T")

POSITIONS = "positions"  # graph input, i64 [B, T]: each token's position
KEY_POSITIONS = "key_positions"  # graph input, i64 [B, S]: the same for all keys, -1 where padding


@dataclass(frozen=True)
class Expectation:
    """`expect fuse(rule)`, and where it stands."""

    rule: str
    span: Span


@dataclass(frozen=True)
class Program:
    """What a `model` line stands for.  `parameters` are its arch's, in order, with their values."""

    name: str
    arch: str
    source: str
    span: Span
    graph: Graph
    parameters: Mapping[str, Any]
    ignored: tuple[str, ...] = ()
    expectations: tuple[Expectation, ...] = field(default=())
    tied: tuple[tuple[Path, Path], ...] = ()  # (what a checkpoint may repeat, what it is tied to)

    def with_graph(self, graph: Graph) -> Program:
        return replace(self, graph=graph)


def positions_in(root: Graph) -> dict[tuple[int, Value], str]:
    """What is `POSITIONS` or `KEY_POSITIONS` in a graph and its bodies, by the graph's `id` and the value."""
    found: dict[tuple[int, Value], str] = {}

    def collect(graph: Graph, known: Mapping[Value, str]) -> None:
        found.update({(id(graph), value): name for value, name in known.items()})
        for node in (*graph.loops(), *graph.branches()):
            for body in node.bodies:
                collect(body, captured_in(body, node, known))

    names = {value: root.node(value).attributes["name"] for value in root.inputs}
    collect(root, {value: name for value, name in names.items() if name in (POSITIONS, KEY_POSITIONS)})
    return found


def captured_in(body: Graph, node: Node, outside: Mapping[Value, T]) -> dict[Value, T]:
    """What is known of values outside of a loop or branch, by the inputs of a body that equal them."""
    start = len(node.attributes.get("entering", ()))
    pairs = list(zip(body.inputs, node.inputs, strict=True))[start:]
    return {inner: outside[outer] for inner, outer in pairs if outer is not None and outer in outside}


def vocabulary_of(graph: Graph) -> int:
    """The vocabulary of a language model: tokens [B, T] go in, logits over them come out.  0 for all else."""
    given = [v for v in graph.inputs if graph.node(v).attributes["name"] not in (POSITIONS, KEY_POSITIONS)]
    if len(given) != 1 or graph.type(given[0]).dtype is not DType.I64 or len(graph.outputs) != 1:
        return 0
    tables = [user for user, _ in graph.users(given[0]) if user.op.name == "embedding"]
    logits = graph.type(graph.outputs[0][1])
    if not tables or len(logits.shape) != 3 or tables[0].inputs[1] is None:
        return 0
    rows = graph.type(tables[0].inputs[1]).shape[0]
    return int(rows) if isinstance(rows, int) and logits.width == rows else 0
