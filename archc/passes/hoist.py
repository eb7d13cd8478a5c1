"""Loop invariants are computed once, before the loop: rope tables, masks."""

from __future__ import annotations

from archc.ir.copier import Copier
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS, Trait
from archc.ir.ops.recurrence import NEW_POSITIONS
from archc.ir.ops.structure import APPEND, CONSTANT, EXPERTS, INPUT, KEEP, LOOP, OF_ITERATION, SCAN, WEIGHT
from archc.ir.types import DType
from archc.passes.context import Context

_STAYING = (INPUT, WEIGHT, CONSTANT, LOOP, EXPERTS, SCAN, APPEND, KEEP, NEW_POSITIONS, OF_ITERATION)

_WIDENING = (
    OPS["constants"],
    OPS["upcast_like"],
)  # to float32, if what they are given as a model is narrower


def hoist_invariants(graph: Graph, context: Context) -> None:
    """Move nodes that read only what enters a loop unchanged out of it, innermost loops first."""
    for loop in graph.loops():
        for body in loop.bodies:
            hoist_invariants(body, context)
    for loop in graph.loops():
        for number in range(len(loop.bodies)):
            _hoist_from(graph, loop.id, number)


def _hoist_from(graph: Graph, loop_id: int, number: int) -> None:
    body = graph.node(loop_id).bodies[number]
    for node in body.nodes():
        node = body.node(node.id)  # what it reads may have moved out just now
        if _is_invariant(graph, graph.node(loop_id), body, node):
            _hoist(graph, graph.node(loop_id), body, node)


def _is_invariant(graph: Graph, loop: Node, body: Graph, node: Node) -> bool:
    stays = node.op in _STAYING or node.op.has(Trait.EFFECT)
    if stays or node.op.has(Trait.PAIRWISE) or not node.inputs:
        return False
    fixed = set(body.inputs[len(loop.attributes["entering"]) :])
    return all(
        value is None
        or value in fixed
        or body.node(value).op is CONSTANT
        or (value in node.given(node.op.models) and _has_model(graph, loop, body, node, value))
        for value in node.inputs
    )


def _has_model(graph: Graph, loop: Node, body: Graph, node: Node, value: Value) -> bool:
    """Whether something outside has the dtype for which a node reads a value; what a loop carries has it."""
    return value in body.inputs or _model_outside(graph, loop, node, body.type(value).dtype) is not None


def _model_outside(graph: Graph, loop: Node, node: Node, dtype: DType) -> Value | None:
    """A value that enters a loop and has the dtype for which a node reads one inside.

    Float32 made of whole numbers stays so in a model that is run in float64, other float32 does not: only the
    model's own dtype tells what is meant, to ops that widen it.
    """
    if dtype is DType.F32 and node.op not in _WIDENING:
        return None
    wanted = DType.FLOAT if dtype is DType.F32 else dtype
    return next((value for value in loop.operands if graph.type(value).dtype is wanted), None)


def _hoist(graph: Graph, loop: Node, body: Graph, node: Node) -> None:
    """Compute the node before the loop and hand its values to the bodies."""
    outside = dict(zip(body.inputs, loop.inputs, strict=True))
    models = node.given(node.op.models)
    order = (*loop.order[:-1], loop.order[-1] - 1, *node.order) if loop.order else node.order
    operands = [
        (
            _model_outside(graph, loop, node, body.type(value).dtype)
            if value is not None and value in models and value not in outside
            else _outer(graph, body, outside, value, order)
        )
        for value in node.inputs
    ]
    same = _existing(graph, node, operands)
    moved = same or Copier(graph).copy(node, operands, scope=None, path=(), order=order)
    for old, new in zip(node.outputs, moved.outputs, strict=True):
        body.replace_uses(old, capture(graph, loop.id, body, new))
    body.remove(node)


def _outer(
    graph: Graph,
    body: Graph,
    outside: dict[Value, Value | None],
    value: Value | None,
    order: tuple[int, ...],
) -> Value | None:
    """What stands outside for an operand; a number is written there, too, before what reads it."""
    if value is None or value in outside:
        return outside[value] if value is not None else None
    number = body.node(value).attributes
    known = (node for node in graph.nodes() if node.op is CONSTANT and node.attributes == number)
    same = next((node for node in known if node.order <= order), None)
    return (same or graph.add(CONSTANT, (), number, order=order)).outputs[0]


def _existing(graph: Graph, node: Node, operands: list[Value | None]) -> Node | None:
    """The same computation where another body has brought it out already."""
    for value in operands:
        for user, _ in graph.users(value) if value is not None else ():
            same = user.op is node.op and user.attributes == node.attributes
            if same and _read_alike(graph, user, operands):
                return user
    return None


def _read_alike(graph: Graph, node: Node, operands: list[Value | None]) -> bool:
    """Whether a node reads some values, or of others of the model's own dtype that dtype alone."""
    if node.op.variadic:
        return node.inputs == tuple(operands)
    return all(
        own == value
        or (operand.name in node.op.models and {_dtype(graph, own), _dtype(graph, value)} == {DType.FLOAT})
        for operand, own, value in zip(node.op.operands, node.inputs, operands, strict=True)
    )


def _dtype(graph: Graph, value: Value | None) -> DType | None:
    return None if value is None else graph.type(value).dtype


def capture(graph: Graph, loop_id: int, body: Graph, value: Value) -> Value:
    """The input of a body that stands for a value outside of its loop."""
    loop = graph.node(loop_id)
    carried = len(loop.attributes["entering"])
    if value not in loop.inputs[carried:]:
        name = _name(graph, value)
        for each in loop.bodies:
            each.add_input(name, graph.type(value), graph.node(value).span)
        loop = graph.update(loop, inputs=(*loop.inputs, value))
    return body.inputs[loop.inputs.index(value, carried)]


def _name(graph: Graph, value: Value) -> str:
    """What a value is called in loops: its name, or that of what it was computed from."""
    name, node = graph.name_of(value), graph.node(value)
    while name in ("", "_") and node.inputs and (source := node.inputs[0]) is not None:
        name, node = graph.name_of(source), graph.node(source)
    return "" if name == "_" or (node.op is INPUT and name != graph.name_of(value)) else name
