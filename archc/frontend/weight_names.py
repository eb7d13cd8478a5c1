"""The names that a model's parameters have in a checkpoint: each once, and not too many."""

from __future__ import annotations

from archc.errors import Note, Reporter
from archc.frontend import mistakes
from archc.frontend.limits import MAX_WEIGHTS
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.weights import weight_places


def check_weight_names(graph: Graph, reporter: Reporter) -> set[str]:
    """All names; reports those that two parameters have, and a model with too many parameters."""
    nodes = [node for part in graph.walk() for node in part.weights()]
    count = _count(graph)
    if count > MAX_WEIGHTS:
        assert nodes[-1].span is not None
        what = f"parameter tensors in one model: {count}"
        reporter.report(mistakes.TooMany(nodes[-1].span, what=what, limit=MAX_WEIGHTS))
        return set()
    seen: dict[str, Node] = {}
    for place in weight_places(graph):
        for name in place.names():
            if name in seen:
                _report_twice(name, place.node, seen[name], reporter)
            seen.setdefault(name, place.node)
    return set(seen)


def _count(graph: Graph) -> int:
    """How many parameter tensors there are, without listing them."""
    count = len(graph.weights())
    for loop in graph.loops():
        schedule = loop.attributes["schedule"]
        counts = [_count(body) for body in loop.bodies]
        count += sum(counts[number] for number in schedule)
    for node in graph.experts():
        count += len(node.bodies[0].weights()) * node.attributes["count"]
    return count


def _report_twice(name: str, node: Node, first: Node, reporter: Reporter) -> None:
    assert node.span is not None
    notes = [Note("the first of them is here", first.span)] if first is not node else []
    reporter.report(mistakes.DuplicatePath(node.span, path=name, notes=notes))
