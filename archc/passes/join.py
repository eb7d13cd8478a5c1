"""Elementwise ops that no fusion has taken become one op with what they read, wherever several are in a row.

A chain ends in one value.  All that is computed for it alone, of the same shape and dtype, is computed
with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush

from archc.ir.graph import Graph
from archc.ir.head import last_linear
from archc.ir.node import Node, Value
from archc.ir.op import OPS
from archc.ir.ops.structure import CONSTANT
from archc.ir.origins import Origins, mixes_sequences, once_in
from archc.ir.row_form import RENAMED
from archc.ir.types import DType, TensorType
from archc.passes.context import Context
from archc.passes.outline import Outline, replace_by_one

ADD = OPS["add"]
_MOST_STEPS = 16  # as many as a fusion of a spec may have
_MOST_OPERANDS = 6  # tensors that a program holds at once, and their gradients
_TOLD = 3  # ops that a name tells


def join_elementwise(graph: Graph, context: Context) -> None:
    """Compute chains of elementwise ops that no fusion names together, where the target can."""
    if "pointwise" not in context.target.families:
        return
    kept = set(after_head(graph))
    once = once_in(graph)
    for part, times in graph.runs():
        nodes = part.nodes()
        order = {node.id: place for place, node in enumerate(nodes) if is_joined(part, node, once)}
        for node in reversed(nodes):
            if node.id in part and not (part is graph and node.id in kept) and node.id in order:
                _join(part, node, order, times, context)
    context.report.sort()


def _join(graph: Graph, last: Node, order: Mapping[int, int], times: int, context: Context) -> None:
    chain = _chain(graph, last, order)
    if len(chain) > 1:
        outline = Outline(graph, chain, "y", operand_name)
        replace_by_one(outline, chain_name(chain), last, times, context)


def _chain(graph: Graph, last: Node, order: Mapping[int, int]) -> list[Node]:
    """The ops that lead to one and to nothing else, in the order of the graph; `order` has those that can."""
    inside: dict[int, Node] = {}
    waiting = [(0, last.id)]
    while waiting and len(inside) < _MOST_STEPS:
        node = graph.node(heappop(waiting)[1])
        if node.id in inside or (node is not last and not _leads_inside(graph, node, last, inside)):
            continue
        found = {**inside, node.id: node}
        if len(_operands(graph, found)) > _MOST_OPERANDS:
            continue
        inside = found
        for value in node.inputs:
            if value is not None and value.node in order:
                # the last first: by then it is known what else reads it
                heappush(waiting, (-order[value.node], value.node))
    return sorted(inside.values(), key=lambda node: order[node.id])


def _leads_inside(graph: Graph, node: Node, last: Node, inside: dict[int, Node]) -> bool:
    if node.types != last.types or graph.is_output(node.outputs[0]):
        return False
    return all(user.id in inside for user, _ in graph.users(node.outputs[0]))


def _operands(graph: Graph, inside: dict[int, Node]) -> set[Value]:
    values = {value for node in inside.values() for value in node.operands}
    return {v for v in values if v.node not in inside and graph.node(v).op is not CONSTANT}


def is_joined(graph: Graph, node: Node, once: Origins) -> bool:
    """Whether a pointwise kernel can compute an op: of operands of its result's shape, vectors, and numbers.

    A sum of rows stays apart: its gradient is what comes in, for all of them, and costs nothing.  So do rows
    of all sequences beside those that stand `once` for all.
    """
    if node.attributes or not node.op.is_pointwise:
        return False
    (result,) = node.types
    operands = [graph.type(value) for value in node.operands]
    whole = [value for value in node.operands if graph.type(value) == result]
    mixed = mixes_sequences(graph, whole, once)
    fits = all(type_ == result or _is_vector(type_, result) for type_ in operands)
    rows = len(result.shape) > 1 and isinstance(result.width, int)
    is_sum = node.op is ADD and len(whole) > 1
    return result.dtype is DType.FLOAT and rows and bool(whole) and fits and not is_sum and not mixed


def _is_vector(type_: TensorType, result: TensorType) -> bool:
    if type_.dtype is DType.SCALAR:
        return True
    return type_.dtype is result.dtype and type_.shape == result.shape[-1:]


def after_head(graph: Graph) -> Iterator[int]:
    """Numbers of the nodes after the head: the loss computes these in its own kernel."""
    for _, value in graph.outputs:
        head = last_linear(graph, value)
        if head is not None:
            yield from graph.depends_on(head.id)


def operand_name(type_: TensorType) -> str:
    """What an operand without a name is called in a fusion."""
    return "x" if len(type_.shape) > 1 else "vector"


def chain_name(chain: list[Node]) -> str:
    """What is done last, after what is done first."""
    done = list(dict.fromkeys(node.op.name for node in chain))
    names = [name for name in done if name not in RENAMED] or done
    return "_".join(names if len(names) <= _TOLD else [*names[: _TOLD - 1], names[-1]])
