"""The choice of experts becomes one op: each `top_k` with the arithmetic on a token's scores around it.

No particular router is known here.  Ops around a choice that read nothing but one token's scores, few enough
to fit in a program, are joined as far as possible; what they compute is the decomposition of the new op.
"""

from __future__ import annotations

from archc.ir.family import ROUTING
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.op import OPS, Trait
from archc.ir.ops.structure import CONSTANT
from archc.ir.types import DType, TensorType
from archc.passes.context import Context
from archc.passes.outline import Outline, replace_by_one

TOP_K = OPS["top_k"]
_MOST = 2048  # scores of a token, which one program holds


def join_routers(graph: Graph, context: Context) -> None:
    """Compute the scores, the choice and the weights of a token's experts together, where the target can."""
    if "router" not in context.target.families:
        return
    for part, times in graph.runs():
        for node in part.nodes():
            if node.op is TOP_K and node.id in part:
                _join(part, node, times, context)


def _join(graph: Graph, choice: Node, times: int, context: Context) -> None:
    if not _is_narrow(graph.type(choice.first)):
        return
    nodes = _around(graph, choice)
    outline = Outline(graph, nodes, "weights", _operand_name)
    replace_by_one(outline, "route", choice, times, context)


def _operand_name(type_: TensorType) -> str:
    """A name for what has none: scores, or a vector that is added to them."""
    return "scores" if len(type_.shape) > 1 else "vector"


def _around(graph: Graph, choice: Node) -> list[Node]:
    """The choice and the ops before and after it that can be computed with it, in the order of the graph."""
    order = graph.nodes()
    before = graph.needed_by(choice.id)
    routing = {node.id for node in order if _is_routing(graph, node, choice)}
    inside = {choice.id}
    for node in reversed(order):  # what nothing else reads of the way to the scores
        if node.id in before and node.id in routing and _reads_inside(graph, node, inside, before):
            inside.add(node.id)
    for node in order:  # what follows from the choice and from what is inside already
        sources = {value.node for value in node.operands}
        follows = node.id not in before and sources & inside and node.id in routing
        if follows and not _reached_outside(graph, node, inside, choice):
            inside.add(node.id)
    for node in reversed(order):  # what is read inside alone, and reads no more than it gives
        if node.id not in inside and node.id in routing and _gives_inside(graph, node, inside, choice):
            inside.add(node.id)
    inside = _without_shared(graph, inside, choice)
    return [node for node in order if node.id in inside]


def _is_routing(graph: Graph, node: Node, choice: Node) -> bool:
    """Whether an op works on one token's few values, and on vectors that are the same for all tokens."""
    of_scores = node.op.has(Trait.ELEMENTWISE) and all(type_.dtype is not DType.I64 for type_ in node.types)
    computed = node.op.name in ROUTING or bool(of_scores and node.op.triton)
    types = [graph.type(value) for value in node.operands[:1]]
    narrow = all(not type_.shape or _is_narrow(type_) for type_ in (*types, *node.types))
    rows = choice.types[0].shape[:-1]
    read = [graph.type(value).shape for value in node.operands]
    meets = all(len(shape) < 2 or shape[:-1] == rows for shape in read)
    return computed and node.op is not CONSTANT and bool(types) and narrow and meets


def _is_narrow(type_: TensorType) -> bool:
    return isinstance(type_.width, int) and type_.width <= _MOST


def _reads_inside(graph: Graph, node: Node, inside: set[int], before: set[int]) -> bool:
    """Whether all readers of a node are inside, or come after the choice and may still join."""
    users = [user for value in node.outputs for user, _ in graph.users(value)]
    outputs = any(graph.is_output(value) for value in node.outputs)
    return not outputs and all(user.id in inside or user.id not in before for user in users)


def _gives_inside(graph: Graph, node: Node, inside: set[int], choice: Node) -> bool:
    """Whether an op that reads at most one value beyond those read inside is for what is inside alone."""
    read = {value for number in inside for value in graph.node(number).inputs}
    more = set(node.operands) - read
    more = {value for value in more if graph.node(value).op is not CONSTANT}
    users = [user.id for value in node.outputs for user, _ in graph.users(value)]
    alone = inside.issuperset(users) and not any(graph.is_output(value) for value in node.outputs)
    return alone and len(more) <= 1 and not _reached_outside(graph, node, inside, choice)


def _reached_outside(graph: Graph, node: Node, inside: set[int], choice: Node) -> bool:
    """Whether an operand from outside depends on what is inside."""
    after = graph.depends_on(choice.id)
    return any(value is not None and value.node in after - inside for value in node.inputs)


def _without_shared(graph: Graph, inside: set[int], choice: Node) -> set[int]:
    """Leave out what is read outside before the choice is made: it would be an output for no gain."""
    before = graph.needed_by(choice.id)
    while True:
        left = graph.left_by([graph.node(number) for number in inside])
        shared = before.intersection(value.node for value in left)
        if not shared:
            return inside
        inside = inside - shared
