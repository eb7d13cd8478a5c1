"""Chosen keys are named once each, so that what reads those that are named counts none of them twice.

A mask does not tell how often a key was chosen; a kernel that goes through the choices does.
"""

from __future__ import annotations

from collections.abc import Mapping

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS
from archc.ir.ops.key_choice import EACH_ONCE, SELECT_KEYS
from archc.ir.ops.structure import LOOP
from archc.ir.program import captured_in
from archc.passes.context import Context, place_of

ATTEND, TOP_K = OPS["attend"], OPS["top_k"]


def name_keys_once(graph: Graph, context: Context) -> None:
    """Take doubles out of places of keys that arithmetic has made, before attention reads them."""
    _name_once(graph, {}, context)


def _name_once(graph: Graph, distinct: dict[Value, bool], context: Context) -> None:
    for node in graph.nodes():
        if node.op is LOOP:
            entering = _entering(node, distinct)
            for body in node.bodies:
                _name_once(body, _known(body, node, entering, distinct), context)
        elif node.op is ATTEND and (among := node.operand("among")) is not None and not distinct.get(among):
            once = graph.add_like(node, EACH_ONCE, [among], names=(graph.name_of(among) or "among",))
            inputs = tuple(once.outputs[0] if value == among else value for value in node.inputs)
            graph.update(node, inputs=inputs)
            context.report.remark("distinct", f"attention ({place_of(node)}): chosen keys are sorted")
        distinct |= _made(node, distinct)


def _made(node: Node, distinct: Mapping[Value, bool]) -> dict[Value, bool]:
    """Which of the values that a node makes hold no place twice."""
    if node.op is TOP_K:
        return {node.outputs[1]: True}
    if node.op is not LOOP:
        return dict.fromkeys(node.outputs, True) if node.op is SELECT_KEYS else {}
    entering = _entering(node, distinct)
    left = [
        (name, is_distinct)
        for body in node.bodies
        for name, is_distinct in _left(body, node, entering, distinct)
    ]
    return {
        value: all(is_distinct for other, is_distinct in left if other == name)
        for name, value in zip(node.attributes["carried"], node.outputs, strict=True)
    }


def _entering(loop: Node, distinct: Mapping[Value, bool]) -> dict[str, bool]:
    """Which of the values that a loop carries hold no place twice, in whichever iteration."""
    names = loop.attributes["entering"]
    values = zip(names, loop.inputs, strict=False)
    entering = {name: value is None or distinct.get(value, False) for name, value in values}
    while True:
        left = [each for body in loop.bodies for each in _left(body, loop, entering, distinct)]
        wrong = [name for name, is_distinct in left if entering.get(name) and not is_distinct]
        if not wrong:
            return entering
        entering |= dict.fromkeys(wrong, False)


def _left(
    body: Graph, loop: Node, entering: Mapping[str, bool], distinct: Mapping[Value, bool]
) -> list[tuple[str, bool]]:
    """What a body leaves, by name, and whether it holds no place twice."""
    known = _known(body, loop, entering, distinct)
    for node in body.nodes():
        known |= _made(node, known)
    return [(name, known.get(value, False)) for name, value in body.outputs]


def _known(
    body: Graph, loop: Node, entering: Mapping[str, bool], distinct: Mapping[Value, bool]
) -> dict[Value, bool]:
    """What is known of a body's inputs."""
    return captured_in(body, loop, distinct) | dict(zip(body.inputs, entering.values(), strict=False))
