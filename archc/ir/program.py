"""A model as a graph, with everything else that the spec says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from archc.errors import Span
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.ops.front import IN_FRONT
from archc.ir.ops.linear import EMBEDDING
from archc.ir.ops.structure import RECENT
from archc.ir.paths import Path
from archc.ir.types import Dim, DType, TensorType

T = TypeVar("T")

# Graph inputs that come by themselves, i64; those of a second sequence have its name before them.
POSITIONS = "positions"  # [B, T]: each token's position
KEY_POSITIONS = "key_positions"  # [B, S]: the same for all keys, -1 where padding


@dataclass(frozen=True)
class Sequence:
    """Tokens along one pair of leading dims: an encoder's and a decoder's are two sequences.

    name:  empty for that of a model's first input, `decoder` for that of another input `decoder_tokens`
    dims:  batch and tokens
    """

    name: str
    dims: tuple[Dim, ...]

    def called(self, what: str) -> str:
        """The name of what belongs to this sequence, such as its positions."""
        return f"{self.name}_{what}" if self.name else what


def positions_named(name: str) -> tuple[str, str] | None:
    """Of which sequence an input's name tells positions, and which of both; None for other inputs."""
    for what in (KEY_POSITIONS, POSITIONS):
        before = name.removesuffix(what)
        if before != name and before[-1:] in ("", "_"):
            return before[:-1], what
    return None


def are_positions(name: str) -> bool:
    """Whether an input's name is that of positions, which come by themselves."""
    return positions_named(name) is not None


def given_inputs(graph: Graph) -> list[Value]:
    """The inputs that a model is called with."""
    return [value for value in graph.inputs if not are_positions(graph.node(value).attributes["name"])]


def sequences(graph: Graph) -> list[Sequence]:
    """The sequences of a graph by its inputs.  With a cache it is the last one that grows."""
    found: dict[tuple[Dim, ...], Sequence] = {}
    for value in given_inputs(graph):
        dims = graph.type(value).shape[:2]
        name = graph.node(value).attributes["name"].removesuffix("_tokens") if found else ""
        if not found or (len(dims) == 2 and all(isinstance(dim, str) for dim in dims)):
            found.setdefault(dims, Sequence(name, dims))
    return list(found.values())


def grows(graph: Graph, value: Value) -> bool:
    """Whether a value has a row for each token of the last sequence, which grows with a cache."""
    return graph.type(value).shape[:2] == sequences(graph)[-1].dims


def tokens_of(graph: Graph, sequence: Sequence) -> Value:
    """The input that has a sequence's tokens: whole numbers of its dims, or the first that begins so."""
    own = [value for value in given_inputs(graph) if graph.type(value).shape[:2] == sequence.dims]
    whole = TensorType(sequence.dims, DType.I64)
    return next((value for value in own if graph.type(value) == whole), own[0])


def most_tokens(graph: Graph) -> int:
    """How many tokens of the sequence that grows may be given, by its tables of positions; 0 without one."""
    last = sequences(graph)[-1].name
    found: list[int] = []
    for value in graph.inputs:
        if positions_named(graph.node(value).attributes["name"]) == (last, POSITIONS):
            tables = [user.operands[1] for user, _ in graph.users(value) if user.op is EMBEDDING]
            found += [int(graph.type(table).shape[0]) for table in tables]
    return min(found) - front_of(graph) if found else 0


def packs_documents(graph: Graph) -> bool:
    """Whether documents may share a row: all that goes in and out is rows of one sequence's tokens."""
    sequence, *others = sequences(graph)
    shapes = [graph.type(value).shape for value in (*given_inputs(graph), *(v for _, v in graph.outputs))]
    by_token = all(shape[:2] == sequence.dims and sequence.dims[1] not in shape[2:] for shape in shapes)
    return by_token and not others and all(isinstance(dim, str) for dim in sequence.dims)


@dataclass(frozen=True)
class Expectation:
    """`expect fuse(rule)`, and where it stands."""

    rule: str
    span: Span


@dataclass(frozen=True)
class Program:
    """What a `model` line stands for.  `parameters` are its arch's, in order, with their values.

    `root`: the path that its tensors have in front; those of a checkpoint elsewhere are another model's.
    `replaced`: the first segment whose place the root takes; paths of the arch without it stay as they are
    `following`: what inputs are for the next token, by what they are for the last one
    """

    name: str
    arch: str
    source: str
    span: Span
    graph: Graph
    parameters: Mapping[str, Any]
    root: str
    replaced: str
    ignored: tuple[str, ...]
    expectations: tuple[Expectation, ...]
    tied: tuple[tuple[Path, Path], ...]  # (what a checkpoint may repeat, what it is tied to)
    start: int | None  # the token that a decoder's sequence begins with
    following: Graph | None


def fronts_in(root: Graph) -> list[tuple[Graph, Node]]:
    """The ops that put learned tokens first in a sequence, each with its graph."""
    return [(part, node) for part in root.walk() for node in part.nodes() if node.op is IN_FRONT]


def front_of(root: Graph) -> int:
    """How many learned tokens come first in each sequence of a graph."""
    found = (
        part.type(node.inputs[2]).shape[0] for part, node in fronts_in(root) if node.inputs[2] is not None
    )
    return max((int(rows) for rows in found), default=0)


# Positions in a graph and its bodies, by the graph's `id` and the value: as `positions_named` tells them.
Places: TypeAlias = Mapping[tuple[int, Value], tuple[str, str]]


def positions_in(root: Graph) -> Places:
    """What are positions in a graph and its loops."""
    found: dict[tuple[int, Value], tuple[str, str]] = {}

    def collect(graph: Graph, known: dict[Value, tuple[str, str]]) -> None:
        for node in graph.nodes():
            if node.op is RECENT and node.inputs[0] in known:
                known[node.outputs[0]] = known[node.inputs[0]]
        found.update({(id(graph), value): name for value, name in known.items()})
        for node in (*graph.loops(), *graph.branches()):
            for body in node.bodies:
                collect(body, captured_in(body, node, known))

    names = {value: positions_named(root.node(value).attributes["name"]) for value in root.inputs}
    collect(root, {value: known for value, known in names.items() if known is not None})
    return found


def captured_in(body: Graph, node: Node, outside: Mapping[Value, T]) -> dict[Value, T]:
    """What is known of values outside of a loop or branch, by the inputs of a body that equal them."""
    start = len(node.attributes.get("entering", ()))
    pairs = list(zip(body.inputs, node.inputs, strict=True))[start:]
    return {inner: outside[outer] for inner, outer in pairs if outer is not None and outer in outside}
