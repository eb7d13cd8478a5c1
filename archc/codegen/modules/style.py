"""How a graph is written as statements: the texts of weights, of kernels' calls and of loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from archc.codegen.code import Line
from archc.codegen.semantics import Semantics
from archc.ir.graph import Graph
from archc.ir.node import Node


@dataclass(frozen=True)
class LinearAfter:
    """A linear map that is called together with the fused op before it, and the function that does both.

    kept: whether that also returns what the map reads
    """

    node: Node
    function: str
    kept: bool


@dataclass(frozen=True)
class Style:
    """How a graph is written.

    kernels:  the call of a fused node, given its operands' texts; None where there are none
    weights:  the text of a weight, by its node's number
    reserved: names that variables must not take
    home:     where the ops' reference functions are found, such as "reference."
    loop:     the statement of a loop: given its node, its results' and operands' names
    function: the package's own function for a node of an op, "" where that is PyTorch's
    caches:   whether the statements see a cache, with which results that stay the same are computed once
    packed:   whether documents that share a row stay in it; else a model calls itself with a row for each
    linears_after: in a graph, by the numbers of fused nodes, the linear maps that are called with them
    of_experts: the texts of the weights in the body of an `experts` node, by its number
    """

    semantics: Semantics
    kernels: Callable[[Graph, Node, list[str]], str]
    weights: Mapping[int, str]
    reserved: frozenset[str]
    loop: Callable[[Node, list[str], list[str]], list[Line]]
    comments: bool = True
    home: str = ""
    none_for_zeros: Callable[[Graph, Node], bool] = lambda _graph, _node: False
    function: Callable[[Graph, Node], str] = lambda _graph, _node: ""
    caches: bool = False
    packed: bool = False
    linears_after: Callable[[Graph], Mapping[int, LinearAfter]] = lambda _graph: {}
    of_experts: Mapping[int, Mapping[int, str]] = field(default_factory=dict)


def no_loop(_node: Node, _targets: list[str], _operands: list[str]) -> list[Line]:
    """The statement of a loop in graphs that have none."""
    raise AssertionError("a loop inside of a decomposition or a head")
