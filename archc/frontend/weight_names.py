"""The names that a model's parameters have in a checkpoint: each once, and not too many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from archc.errors import Note, Reporter, Span
from archc.frontend import mistakes
from archc.frontend.limits import MAX_WEIGHTS
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.paths import Path
from archc.ir.weights import weight_places

# Through which calls a weight was reached, by its path and its node's number.
Calls: TypeAlias = Mapping[tuple[Path, int], Sequence[Note]]


def check_weight_names(graph: Graph, calls: Calls, reporter: Reporter) -> set[str]:
    """All names; reports those that two parameters have, and a model with too many parameters.

    What two places of a spec give the same names is reported once, however many layers come to them.
    """
    nodes = [node for part in graph.walk() for node in part.weights()]
    count = _count(graph)
    if count > MAX_WEIGHTS:
        assert nodes[-1].span is not None
        what = f"parameter tensors in one model: {count}"
        reporter.report(mistakes.TooMany(nodes[-1].span, what=what, limit=MAX_WEIGHTS))
        return set()
    named = [(place.node, place.names()) for place in weight_places(graph)]
    found = set[str]().union(*(names for _, names in named))
    if len(found) < sum(len(names) for _, names in named):
        _report_repeated(named, calls, reporter)
    return found


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


def _report_repeated(named: Iterable[tuple[Node, Sequence[str]]], calls: Calls, reporter: Reporter) -> None:
    seen: dict[str, Node] = {}
    twice: dict[tuple[Span | None, Span | None], tuple[str, Node, Node]] = {}
    for node, names in named:
        for name in names:
            if name in seen:
                twice.setdefault((node.span, seen[name].span), (name, node, seen[name]))
            else:
                seen[name] = node
    for name, node, first in twice.values():
        _report_twice(name, node, first, calls, reporter)


def _report_twice(name: str, node: Node, first: Node, calls: Calls, reporter: Reporter) -> None:
    assert node.span is not None
    notes: list[Note] = []
    if first is not node:
        notes = [Note("the first of them is here", first.span), *calls.get((first.path, first.id), ())]
    reached = calls.get((node.path, node.id), ())
    reporter.report(mistakes.DuplicatePath(node.span, path=name, notes=[*reached, *notes]))
