"""Further values that a loop carries from one layer to the next."""

from __future__ import annotations

from collections.abc import Sequence

from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value
from archc.ir.types import TensorType


def carry_also(graph: Graph, loop: Node, names: Sequence[str], starts: Sequence[Value]) -> Node:
    """The loop with values that start as `starts`.

    Its bodies take them in already, after all that enters, and give them last.
    """
    entering = loop.attributes["entering"]
    loop = graph.update(
        loop,
        inputs=(*loop.inputs[: len(entering)], *starts, *loop.inputs[len(entering) :]),
        attributes={**loop.attributes, "entering": (*entering, *names)},
    )
    return leave_also(graph, loop, names, [graph.type(value) for value in starts])


def leave_also(graph: Graph, loop: Node, names: Sequence[str], types: Sequence[TensorType]) -> Node:
    """The loop with further results, which its bodies give last already."""
    carried = loop.attributes["carried"]
    types = (*loop.types, *types)
    named = (*loop.names, *[""] * (len(carried) - len(loop.names)))
    return graph.update(
        loop,
        types=types,
        names=(*named, *names),
        attributes={**loop.attributes, "carried": (*carried, *names), "types": types},
    )


def drop_carried(graph: Graph, number: int) -> None:
    """Stop carrying values that neither a layer nor anything after the loop reads."""
    for name in graph.node(number).attributes["carried"]:
        if not _is_read(graph, graph.node(number), name):
            _drop(graph, graph.node(number), name)


def _is_read(graph: Graph, loop: Node, name: str) -> bool:
    result = loop.outputs[loop.attributes["carried"].index(name)]
    if graph.users(result) or graph.is_output(result):
        return True
    if name not in loop.attributes["entering"]:
        return False
    place = loop.attributes["entering"].index(name)
    return any(_is_read_in(body, body.inputs[place], name) for body in loop.bodies)


def _is_read_in(body: Graph, value: Value, name: str) -> bool:
    """Whether a body does more with an input than to pass it on under its name."""
    return bool(body.users(value)) or any(left == value and other != name for other, left in body.outputs)


def _drop(graph: Graph, loop: Node, name: str) -> None:
    entering, carried = loop.attributes["entering"], loop.attributes["carried"]
    for body in loop.bodies:
        body.outputs = [output for output in body.outputs if output[0] != name]
    inputs = loop.inputs
    if name in entering:
        place = entering.index(name)
        inputs = (*inputs[:place], *inputs[place + 1 :])
        for body in loop.bodies:
            body.remove(body.node(body.inputs.pop(place)))
    dropped = carried.index(name)
    types, names = ((*each[:dropped], *each[dropped + 1 :]) for each in (loop.types, loop.names))
    attributes = {
        **loop.attributes,
        "entering": tuple(each for each in entering if each != name),
        "carried": tuple(each for each in carried if each != name),
        "types": types,
    }
    results = loop.outputs
    graph.update(loop, inputs=inputs, types=types, names=names, attributes=attributes)
    for moved in results[dropped + 1 :]:
        graph.replace_uses(moved, Value(loop.id, moved.output - 1))


def free_name(name: str, loop: Node) -> str:
    """`name`, or `name_2`, `name_3`... where the loop carries one of that name."""
    return unique(name, (*loop.attributes["entering"], *loop.attributes["carried"]))
