"""Inputs and weights chosen to trap mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from archc.ir.decoding import scalings_by_length
from archc.ir.graph import Graph
from archc.ir.node import Node, Value, stored_in
from archc.ir.op import Trait
from archc.ir.ops.key_choice import RANK_KEYS, SELECT_KEYS
from archc.ir.ops.structure import CONSTANT, EXPERTS, LOOP
from archc.ir.paths import concrete
from archc.ir.program import (
    KEY_POSITIONS,
    POSITIONS,
    Sequence,
    are_positions,
    front_of,
    given_inputs,
    grows,
    sequences,
    tokens_of,
)
from archc.ir.types import DType
from archc.ir.weights import enumerate_weights

MAX_LENGTH = 160
_BATCH = 2


@dataclass(frozen=True)
class Case:
    """One set of inputs for a graph, positions included.

    grown:   the inputs with rows of the tokens that a cache takes in pieces, those tokens first
    options: what a model takes besides them, such as the padding of each sequence: bool [B, T]
    padding: that of the sequence that the outputs belong to, or None
    shifted: positions do not start at 0: only a graph can be given them
    """

    name: str
    inputs: dict[str, Tensor]
    grown: tuple[str, ...]
    options: dict[str, Tensor] = field(default_factory=dict)
    padding: Tensor | None = None
    shifted: bool = False

    @property
    def given(self) -> list[Tensor]:
        """The inputs that a model is called with."""
        return [value for name, value in self.inputs.items() if not are_positions(name)]

    @property
    def tokens(self) -> Tensor:
        """Those that a cache takes in pieces: [B, T, ...]."""
        return self.inputs[self.grown[0]]

    def piece(self, start: int, end: int) -> list[Tensor | None]:
        """What a model with a cache is called with for some of the tokens; None for what it has taken in."""
        rows = {name: self.inputs[name][:, start:end] for name in self.grown}
        names = (name for name in self.inputs if not are_positions(name))
        return [rows.get(name, None if start else self.inputs[name]) for name in names]


def random_weights(graph: Graph, outliers: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """The checkpoint's tensors in float64: matrices that keep sizes near 1, vectors near 1.

    With `outliers` a few columns of every matrix are 30 times as large.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for node, indices in enumerate_weights(graph):
        for stored in stored_in(node):
            if node.types[0].dtype is DType.I64:
                most = int(node.attributes["init"].high)
                drawn = torch.randint(most, stored.file_shape, generator=generator)
                tensors[concrete(stored.path, indices)] = drawn
                continue
            noise = torch.randn(stored.file_shape, generator=generator, dtype=torch.float64)
            if len(stored.shape) < 2:
                tensor = 1 + 0.2 * noise
            else:
                tensor = noise * (1.5 / max(stored.shape[-1], 1) ** 0.5)
                if outliers:
                    tensor[..., :: max(1, stored.shape[-1] // 3)] *= 30
            tensors[concrete(stored.path, indices)] = tensor
    return tensors


def cases(graph: Graph) -> Iterator[Case]:
    """Inputs of several lengths, longer than every window, with padding and far positions."""
    furthest, front = _position_rows(graph), front_of(graph)
    most = min(MAX_LENGTH, furthest or MAX_LENGTH)
    length = min(most, 2 * _longest_window(graph) + 3 + front)
    yield _case(graph, f"{length} tokens", length, seed=1)
    yield _case(graph, "1 token", front + 1, seed=2)
    yield _case(graph, "equal tokens", min(8 + front, most), seed=3, equal=True)
    if any(are_positions(name) for name in _names(graph)):
        yield _case(graph, "padding on the left", length, seed=4, pad=_pad_left)
        yield _case(graph, "padding on the right", length, seed=5, pad=_pad_right)
        for start in (1000, 1_000_000):
            if furthest is None or start + length <= furthest:
                yield _case(graph, f"from position {start:,}", length, seed=6, start=start)


def _case(
    graph: Graph,
    name: str,
    length: int,
    seed: int,
    equal: bool = False,
    pad: Callable[[int], Tensor] | None = None,
    start: int = 0,
) -> Case:
    """A case with `length` tokens in the last sequence, and fewer in others."""
    generator = torch.Generator().manual_seed(seed)
    *others, last = sequences(graph)
    lengths = {**dict.fromkeys(others, length - length // 3), last: length}
    sizes = {dim: size for each, size in lengths.items() for dim in each.dims[1:] if isinstance(dim, str)}
    inputs: dict[str, Tensor] = {}
    for value in given_inputs(graph):
        type_ = graph.type(value)
        for place, dim in enumerate(type_.shape):
            if isinstance(dim, str):
                sizes.setdefault(dim, (_BATCH, length)[min(place, 1)])
        shape = type_.bind(sizes).shape
        given = graph.node(value).attributes["name"]
        inputs[given] = _values(graph, value, shape, lengths[last], generator, equal)
    paddings = {each: pad(size) if pad else None for each, size in lengths.items()}
    for each, padding in paddings.items():
        inputs |= _positions(each, lengths[each], padding, start)
    inputs |= _without_learned(graph, inputs)
    options = {each.called("padding"): padding for each, padding in paddings.items() if padding is not None}
    return Case(name, inputs, _grown(graph, last), options, paddings[last], shifted=start > 0)


def _grown(graph: Graph, last: Sequence) -> tuple[str, ...]:
    """The inputs with rows of the last sequence's tokens, those tokens first."""
    tokens = tokens_of(graph, last)
    found = [value for value in given_inputs(graph) if grows(graph, value)]
    found.sort(key=lambda value: value != tokens)
    return tuple(graph.node(value).attributes["name"] for value in found)


def _without_learned(graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that have tokens, with zeros where learned ones come first, as a package has there."""
    front, found = front_of(graph), {}
    if front:
        (tokens,) = sequences(graph)
        keys = inputs[tokens.called(KEY_POSITIONS)]
        for value in given_inputs(graph):
            if graph.type(value).shape[:2] == tokens.dims:
                x = inputs[name := graph.node(value).attributes["name"]]
                learned = ((keys >= 0) & (keys < front)).view(*keys.shape, *[1] * (x.dim() - 2))
                found[name] = x.masked_fill(learned, 0)
    return found


def _pad_left(length: int) -> Tensor:
    real = torch.ones(_BATCH, length, dtype=torch.bool)
    real[0, : length // 3] = False
    return real


def _pad_right(length: int) -> Tensor:
    real = torch.ones(_BATCH, length, dtype=torch.bool)
    real[1, -(length // 4) - 1 :] = False
    return real


def _values(
    graph: Graph, value: Any, shape: Any, length: int, generator: torch.Generator, equal: bool
) -> Tensor:
    dtype = graph.type(value).dtype
    if dtype is DType.I64:
        rows = _rows_looked_up(graph, value, length)
        if _chooses_keys(graph) and shape[-1] <= rows and not equal:
            return torch.rand(*shape[:-1], rows, generator=generator).argsort(-1)[..., : shape[-1]]
        drawn = torch.randint(rows, shape, generator=generator)
        return drawn[..., :1].expand(shape).contiguous() if equal else drawn
    if dtype is DType.BOOL:
        return torch.rand(shape, generator=generator) < 0.5
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _positions(sequence: Sequence, length: int, padding: Tensor | None, start: int) -> dict[str, Tensor]:
    positions = keys = torch.arange(start, start + length).expand(_BATCH, -1)
    if padding is not None:
        positions = (padding.cumsum(1) - 1).clamp(min=0)
        keys = torch.where(padding, positions, -1)
    return {sequence.called(POSITIONS): positions, sequence.called(KEY_POSITIONS): keys}


def _names(graph: Graph) -> list[str]:
    return [graph.node(value).attributes["name"] for value in graph.inputs]


def _chooses_keys(graph: Graph) -> bool:
    """Whether scores choose keys: those of a token that comes twice are equal but for rounding."""
    return any(node.op in (SELECT_KEYS, RANK_KEYS) for part in graph.walk() for node in part.nodes())


def _rows_looked_up(graph: Graph, value: Value, default: int) -> int:
    """The rows of the smallest table that a value indexes, so that every index is one of its rows.

    Experts that it chooses are rows, too.
    """
    return min(_table_rows(graph, value), default=default)


def _table_rows(graph: Graph, value: Value) -> Iterator[int]:
    """How large a value may be by the tables that it looks up in, here and in loops that take it in."""
    for user, place in graph.users(value):
        if user.op is LOOP:
            for body in user.bodies:
                yield from _table_rows(body, body.inputs[place])
        elif user.op.name in ("embedding", "whole_table") and place == 0:
            yield int(graph.type(user.operands[1]).shape[0])
        elif user.op is EXPERTS and place == 0:
            yield user.attributes["count"]
        elif _is_remainder(graph, user):
            continue  # which is small wherever the value lies
        elif user.op.has(Trait.ELEMENTWISE) or user.op.has(Trait.SHAPE):  # as in `positions(x) + 2`
            for output in user.outputs:
                bounds = (_before(graph, user, rows) for rows in _table_rows(graph, output))
                yield from (bound for bound in bounds if bound is not None)


def _is_remainder(graph: Graph, node: Node) -> bool:
    """Whether a node is x - n * whole_quotient(x, n)."""
    if node.op.name != "sub":
        return False
    factors = graph.node(node.operands[1]).operands
    return any(graph.node(value).op.name == "whole_quotient" for value in factors)


def _before(graph: Graph, node: Node, rows: int) -> int | None:
    """Below what an op's operand must be for its result to be below `rows`; None where it always is."""
    if node.op.name == "whole_quotient":
        return rows * int(node.attributes["by"])
    terms = [graph.node(value) for value in node.operands]
    for number in (term.attributes["value"] for term in terms if term.op is CONSTANT):
        match node.op.name:
            case "add":
                return int(rows - number)
            case "mul":
                return -int(-rows // number) if number > 0 else None
            case "minimum":
                return rows if number >= rows else None
    return rows


def _position_rows(graph: Graph) -> int | None:
    """How many positions a learned table has, None where there is none."""
    positions = [v for v in graph.inputs if are_positions(graph.node(v).attributes["name"])]
    return min((rows for value in positions for rows in _table_rows(graph, value)), default=None)


def _longest_window(graph: Graph) -> int:
    """The longest of the windows, and of the contexts beyond which positions mean something else."""
    windows = [
        mask.reach or 0
        for part in graph.walk()
        for node in part.nodes()
        if (mask := node.attributes.get("mask")) is not None
    ]
    windows += [int(scaling.original) for scaling in scalings_by_length(graph)]
    return max(windows, default=0) or 8
