"""What ends a layer moves to the next layer's start, where ops on the same rows follow.

for: h = norm(x); ...; x = x + f                      x, f = x, 0
                                      becomes         for: x = x + f; h = norm(x); ...
                                                      x = x + f

So do norms and factors of what is added, and of the sum.  Their weights are handed on to the next layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value
from archc.ir.op import OPS, Trait
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.structure import CONSTANT, ONES, ZEROS
from archc.ir.row_form import is_row_op
from archc.ir.types import DType
from archc.passes.carried import carry_also
from archc.passes.context import Context, place_of
from archc.passes.tail import Place, Start, Tail

ADD, SUB, MUL, UPCAST = (OPS[name] for name in ("add", "sub", "mul", "upcast"))
_MOST_STEPS, _MOST_READ = 12, 6  # of a tail, that a kernel of rows has room for beside what follows


def rotate_loops(graph: Graph, context: Context) -> None:
    """Move what ends every body of a loop to the body's start, where ops on rows read it."""
    if "norm" not in context.target.families:
        return
    for part in graph.walk():
        for loop in part.loops():
            for name, type_ in zip(loop.attributes["carried"], loop.types, strict=True):
                if type_.shape[1:2] != ("S",):  # no sums, but what is kept of earlier tokens
                    _rotate(part, part.node(loop.id), name, context)


def _rotate(graph: Graph, loop: Node, name: str, context: Context) -> None:
    reason = "" if name in loop.attributes["entering"] else "it does not enter the loop"
    if not reason:
        tail = Tail.of(loop, name, "row" not in context.target.families)
        reason = _obstacle(tail)
    if reason:
        outcome = reason
    else:
        _move(graph, tail)
        ops = ", ".join(dict.fromkeys(f"`{nodes[0].op.name}`" for nodes in reversed(tail.steps)))
        outcome = f"{ops} at a layer's end moved to the next layer's start"
    context.report.remark("loop_edge", f"`{name}` ({place_of(loop)}): {outcome}")


def _obstacle(tail: Tail) -> str:
    """Why a tail stays where it is; "" if it moves."""
    if not any(nodes[0].op in (ADD, SUB, MUL) for nodes in tail.steps):
        return "layers do not end alike in a sum or a product"
    if len(tail.steps) > _MOST_STEPS or len(tail.starts) > _MOST_READ:
        return "layers end in more than one kernel computes"
    sums = all(nodes[0].op is ADD or nodes[0].op.has(Trait.NORM) for nodes in tail.steps)
    later = [number for number in range(len(tail.bodies)) if not (sums and _adds_nothing(tail, number))]
    if later and sums and all(_takes_in(tail, number) for number in later):
        return ""
    if not later or not all(_first_readers(tail, number) for number in later):
        return "no op on rows reads it at a layer's start"
    rows = all(_ends_with_rows(tail, number) for number in range(len(tail.bodies)))
    return "other ops on rows, which stay, end a layer" if rows else ""


def _adds_nothing(tail: Tail, number: int) -> bool:
    """Whether a body is the first layer's alone, and begins without a sum: nothing has been left to add."""
    schedule = tail.loop.attributes["schedule"]
    plain = all(nodes[0].op is ADD for nodes in tail.steps) and not _first_readers(tail, number)
    return plain and schedule[0] == number and schedule.count(number) == 1


def _takes_in(tail: Tail, number: int) -> bool:
    """Whether a kernel at a body's start takes in sums for nothing.

    One of a norm does, and one of a linear map, for a single row, if a norm is among what moves.
    """
    norms = any(nodes[0].op.has(Trait.NORM) for nodes in tail.steps)
    maps = norms and any(user.op is LINEAR for user, _ in tail.bodies[number].users(_enters(tail, number)))
    return maps or any(reader.op.has(Trait.NORM) for reader in _first_readers(tail, number))


def _enters(tail: Tail, number: int) -> Value:
    """What stands for the carried value at a body's start."""
    place: int = tail.loop.attributes["entering"].index(tail.name)
    return tail.bodies[number].inputs[place]


def _first_readers(tail: Tail, number: int) -> list[Node]:
    """Ops on rows in a body that need what enters, and nothing else that is made of it."""
    body, enters = tail.bodies[number], _enters(tail, number)
    moving = {nodes[number].id for nodes in tail.steps}
    later = body.depends_on(enters.node)
    return [
        user
        for user, _ in body.users(enters)
        if is_row_op(user.op)
        and not user.op.has(Trait.VIEW)
        and user.id not in moving
        and all(value is None or value == enters or value.node not in later for value in user.inputs)
    ]


def _ends_with_rows(tail: Tail, number: int) -> bool:
    """Whether an op on rows makes what a tail reads: its kernel would be there for the tail, too."""
    makers = [tail.bodies[number].node(place[number]) for place in tail.carried if not tail.is_vector(place)]
    return any(is_row_op(maker.op) and not maker.op.has(Trait.VIEW) for maker in makers)


def _move(graph: Graph, tail: Tail) -> None:
    loop, carried = tail.loop, tail.carried
    entering, results = loop.attributes["entering"], loop.attributes["carried"]
    place = entering.index(tail.name)
    names = _names(tail)
    for number in range(len(tail.bodies)):
        _move_in_body(tail, number, place, names)
    start = loop.operands[place]
    before = (*loop.order[:-1], loop.order[-1] - 1, 0)
    starts = [_start(graph, tail, each, start, called, before) for each, called in names.items()]
    loop = carry_also(graph, loop, list(names.values()), starts)
    left = loop.outputs[results.index(tail.name)]
    given = {tail.stream: left, **dict(zip(carried, loop.outputs[len(results) :], strict=True))}
    outside = dict(zip(tail.bodies[0].inputs, loop.inputs, strict=True))
    given |= {each: outside[each[0]] for each in tail.starts if each not in given}
    made = _write(graph, tail, 0, given, (*loop.order, 1))
    graph.replace_uses(left, made[-1].outputs[0], but=[node.id for node in made])


def _names(tail: Tail) -> dict[Place, str]:
    """What is handed on is called: after the carried value, or after what a norm makes of it."""
    taken = [*tail.loop.attributes["entering"], *tail.loop.attributes["carried"]]
    names: dict[Place, str] = {}
    for place in tail.carried:
        reader, operand = tail.reader(place)
        wanted = f"{tail.name}_delta"
        if tail.is_vector(place):
            normed = next(iter(tail.operands(_step(tail, reader)).values()))
            of_norm = f"{names.get(normed, wanted)}_{operand}"
            wanted = of_norm if reader.op.has(Trait.NORM) else f"{tail.name}_factor"
        names[place] = unique(wanted, (*taken, *names.values()))
    return names


def _step(tail: Tail, node: Node) -> Sequence[Node]:
    return next(nodes for nodes in tail.steps if nodes[0] is node)


def _start(graph: Graph, tail: Tail, place: Place, like: Value, name: str, order: tuple[int, ...]) -> Value:
    """What is handed to the first layer."""
    type_ = tail.type_of(place)
    op = ONES if tail.starts[place] is Start.ONE else ZEROS
    shape = type_.shape if tail.is_vector(place) else None
    first = graph.add(op, [like], {"shape": shape}, names=(name,), span=tail.loop.span, order=order)
    if type_.dtype is DType.F32:
        first = graph.add(UPCAST, first.outputs, names=(name,), span=tail.loop.span, order=order)
    return first.outputs[0]


def _move_in_body(tail: Tail, number: int, place: int, names: Mapping[Place, str]) -> None:
    """Let a body begin with the tail, and leave what the tail reads."""
    body, entering = tail.bodies[number], len(tail.loop.attributes["entering"])
    span = tail.steps[0][number].span
    enters = body.inputs[place]
    inputs = {each: body.add_input(name, body.type(each[number]), span) for each, name in names.items()}
    if inputs:
        own, captured = body.inputs[:entering], body.inputs[entering : -len(inputs)]
        body.inputs = [*own, *inputs.values(), *captured]
    given = {each: each[number] for each in tail.starts} | {tail.stream: enters} | inputs
    made = [] if _adds_nothing(tail, number) else _write(body, tail, number, given, (-1, place))
    total = made[-1].outputs[0] if made else enters
    # The sum stands for the stream from here on; where the tail read the stream itself, it reads the sum.
    body.replace_uses(enters, total, but=[node.id for node in made])
    left = {each: total if each[number] == enters else each[number] for each in tail.starts}
    outputs = [(n, left[tail.stream] if n == tail.name else value) for n, value in body.outputs]
    body.outputs = [*outputs, *((name, left[each]) for each, name in names.items())]
    body.remove_unread([nodes[number] for nodes in reversed(tail.steps)])


def _write(
    graph: Graph, tail: Tail, number: int, given: Mapping[Place, Value], order: tuple[int, ...]
) -> list[Node]:
    """The ops of a tail as a body has them, on other values, the last with the carried value's name."""
    known = dict(given)
    made: list[Node] = []
    for step, nodes in enumerate(reversed(tail.steps)):
        node, operands = nodes[number], tail.operands(nodes)
        where = partial(graph.add, span=node.span, scope=node.scope, order=(*order, step))
        for place in operands.values():
            if place not in known:
                known[place] = where(CONSTANT, (), {"value": tail.number(place)}).outputs[0]
        inputs = [
            None if value is None else known[operands.get(operand.name, tail.stream)]
            for operand, value in zip(node.op.operands, node.inputs, strict=True)
        ]
        names = (tail.name,) if nodes is tail.steps[0] else ()
        made.append(where(node.op, inputs, node.attributes, names=names))
        known[tuple(each.outputs[0] for each in nodes)] = made[-1].outputs[0]
    return made
