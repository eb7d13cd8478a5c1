"""A model as a graph, with what else the spec says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from archc.errors import Span
from archc.ir.graph import Graph
from archc.ir.paths import Path

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
