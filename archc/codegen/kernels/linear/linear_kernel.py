"""Plans for linear maps of few rows, where a kernel was measured to be faster than PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from archc.codegen.kernels.linear.linear_plan import LinearChoice, LinearKernel
from archc.codegen.modules.head import Cut
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node
from archc.ir.ops.structure import WEIGHT
from archc.ir.rule import rule_of
from archc.target import Target
from archc.tuned import Tuned

Shape = tuple[int, int]  # outputs and inputs


def linear_shape(graph: Graph, node: Node) -> Shape | None:
    """The shape of the weight of a linear map that kernels may take; None for any other node."""
    if node.op.name != "linear" or rule_of(node) or node.attributes["layout"] != "out_in":
        return None
    if node.attributes["wide"]:
        return None
    weights = [graph.node(value) for value in node.inputs[1:] if value is not None]
    if any(weight.op is not WEIGHT for weight in weights):
        return None
    outputs, inputs = weights[0].types[0].shape
    return int(outputs), int(inputs)


def linear_shapes(
    graphs: Sequence[Graph], cut: Cut | None, but: Callable[[Graph], Collection[int]] = lambda _graph: ()
) -> list[Shape]:
    """The different weights that linear maps of graphs, and of a model's head, have, `but` of some nodes."""
    return list(dict.fromkeys(_shapes(graphs, cut, but)))


def _shapes(
    graphs: Sequence[Graph], cut: Cut | None, but: Callable[[Graph], Collection[int]]
) -> Iterator[Shape]:
    for graph in graphs:
        others = but(graph)
        for node in graph.nodes():
            shape = linear_shape(graph, node)
            if shape is not None and node.id not in others:
                yield shape
    if cut is not None:
        yield cut.weight_shape


def plan_linear(
    shapes: Sequence[Shape], alone: Collection[Shape], tuned: Tuned, target: Target, taken: Sequence[str]
) -> LinearKernel | None:
    """The kernels of linear maps of few rows; None where PyTorch is as fast for all of them.

    alone: the weights of maps that have a single row for themselves, not with the op before them
    """
    if "linear" not in target.families:
        return None
    chosen = [(shape, entry) for shape in shapes for entry in tuned.choices(*shape)]
    entries = [entry for shape, entry in chosen if entry.problem.rows > 1 or shape in alone]
    if not entries:
        return None
    return LinearKernel(
        name=unique("linear", set(taken)),
        choices=tuple(
            LinearChoice(
                entry.problem.dtype,
                entry.problem.outputs,
                entry.problem.inputs,
                entry.problem.rows,
                (entry.tile.outputs, entry.tile.inputs, entry.tile.warps, entry.tile.stages),
                f"{entry.microseconds:.1f} us, PyTorch's {entry.library:.1f}",
            )
            for entry in entries
        ),
        sources=tuple(dict.fromkeys(str(entry.provenance) for entry in entries)),
    )
