"""Plans for linear maps of few rows, where a kernel was measured to be faster than PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set

from archc.codegen.kernels.linear.linear_plan import LinearChoice, LinearKernel
from archc.codegen.modules.head import Cut
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node
from archc.ir.ops.linear import WIDE_LINEAR
from archc.ir.ops.structure import WEIGHT
from archc.ir.rule import rule_of
from archc.target import Target
from archc.tuned import Entry, Tuned

Shape = tuple[int, int]  # outputs and inputs
Map = tuple[Shape, bool]  # a weight's shape, and whether there is a bias


def linear_shape(graph: Graph, node: Node) -> Shape | None:
    """The shape of the weight of a linear map that kernels may take; None for any other node."""
    if node.op.name != "linear" or rule_of(node) or node.attributes["layout"] != "out_in":
        return None
    return None if node.attributes["wide"] else _weight_shape(graph, node)


def _weight_shape(graph: Graph, node: Node) -> Shape | None:
    """None where a weight is computed."""
    weights = [graph.node(value) for value in node.operands[1:]]
    if any(weight.op is not WEIGHT for weight in weights):
        return None
    outputs, inputs = weights[0].types[0].shape
    return int(outputs), int(inputs)


def linear_map(graph: Graph, node: Node) -> Map | None:
    """The same, and whether the map has a bias."""
    return _with_bias(linear_shape(graph, node), node)


def map_of_row(graph: Graph, node: Node) -> Map | None:
    """The same where the kernel of the op before it may compute it, so also of a map into float32."""
    return _with_bias(_weight_shape(graph, node), node) if node.op is WIDE_LINEAR else linear_map(graph, node)


def _with_bias(shape: Shape | None, node: Node) -> Map | None:
    return None if shape is None else (shape, len(node.operands) > 2)


def linear_maps(
    graphs: Sequence[Graph], cut: Cut | None, but: Callable[[Graph], Collection[int]] = lambda _graph: ()
) -> Mapping[Shape, Set[bool]]:
    """The weights that linear maps of graphs, and of a model's head, have, `but` of some nodes.

    Each with whether there is a bias, which may be so and not.
    """
    found: dict[Shape, set[bool]] = {}
    for shape, biased in _maps(graphs, cut, but):
        found.setdefault(shape, set()).add(biased)
    return found


def _maps(graphs: Sequence[Graph], cut: Cut | None, but: Callable[[Graph], Collection[int]]) -> Iterator[Map]:
    for graph in graphs:
        others = but(graph)
        for node in graph.nodes():
            found = linear_map(graph, node)
            if found is not None and node.id not in others:
                yield found
    if cut is not None:
        yield cut.weight_shape, cut.bias is not None


def plan_linear(
    maps: Mapping[Shape, Set[bool]],
    alone: Mapping[Shape, Set[bool]],
    tuned: Tuned,
    target: Target,
    taken: Sequence[str],
) -> LinearKernel | None:
    """The kernels of linear maps of few rows; None where PyTorch is as fast for all of them.

    alone: the maps that have a single row for themselves, not with the op before them
    """
    if "linear" not in target.families:
        return None
    chosen = [(shape, entry) for shape in maps for entry in tuned.choices(*shape)]
    called = [(entry, (maps if entry.problem.rows > 1 else alone).get(shape)) for shape, entry in chosen]
    entries = [(entry, biased) for entry, biased in called if biased]
    if not entries:
        return None
    return LinearKernel(
        name=unique("linear", set(taken)),
        choices=tuple(_choice(entry, biased) for entry, biased in entries),
        sources=tuple(dict.fromkeys(str(entry.provenance) for entry, _ in entries)),
    )


def _choice(entry: Entry, biased: Set[bool]) -> LinearChoice:
    problem, tile = entry.problem, entry.tile
    return LinearChoice(
        problem.dtype,
        problem.outputs,
        problem.inputs,
        problem.rows,
        (tile.outputs, tile.inputs, tile.warps, tile.stages),
        f"{entry.microseconds:.1f} us, PyTorch's {entry.library:.1f}",
        tuple(sorted(biased)),
    )
