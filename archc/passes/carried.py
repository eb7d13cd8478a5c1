"""Further values that a loop carries from one layer to the next."""

from __future__ import annotations

from collections.abc import Sequence

from archc.ir.graph import Graph, Node, Value


def carry_also(graph: Graph, loop: Node, names: Sequence[str], starts: Sequence[Value]) -> Node:
    """The loop with values that start as `starts`.

    Its bodies take them in already, behind all that enters, and give them last.
    """
    entering, carried = loop.attributes["entering"], loop.attributes["carried"]
    types = tuple(graph.type(value) for value in starts)
    named = (*loop.names, *[""] * (len(carried) - len(loop.names)))
    return graph.update(
        loop,
        inputs=(*loop.inputs[: len(entering)], *starts, *loop.inputs[len(entering) :]),
        types=(*loop.types, *types),
        names=(*named, *names),
        attributes={
            **loop.attributes,
            "entering": (*entering, *names),
            "carried": (*carried, *names),
            "types": (*loop.types, *types),
        },
    )


def free_name(name: str, loop: Node) -> str:
    """`name`, or `name_2`, `name_3`... where the loop carries one of that name."""
    taken = (*loop.attributes["entering"], *loop.attributes["carried"])
    candidate, count = name, 2
    while candidate in taken:
        candidate, count = f"{name}_{count}", count + 1
    return candidate
