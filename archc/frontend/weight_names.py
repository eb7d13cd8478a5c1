"""The names that a model's parameters have in a checkpoint: each once, and not too many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from archc.errors import Note, Reporter, Span
from archc.frontend import mistakes
from archc.frontend.limits import MAX_WEIGHTS
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.paths import Path
from archc.ir.weights import weight_places

_NO_NUMBERS = str.maketrans("", "", "-0123456789*")

# Through which calls a weight was reached, by its path and its node's number.
Calls: TypeAlias = Mapping[tuple[Path, int], Sequence[Note]]


def check_weight_names(graph: Graph, calls: Calls, reporter: Reporter) -> None:
    """Report names that two parameters have, and a model with too many parameters.

    What two places of a spec give the same names is reported once, however many layers come to them.
    """
    nodes = [node for part in graph.walk() for node in part.weights()]
    count = _count(graph)
    if count > MAX_WEIGHTS:
        what = f"parameter tensors in one model: {count}"
        reporter.report(mistakes.TooMany(nodes[-1].written, what=what, limit=MAX_WEIGHTS))
    elif not _differ(graph):
        _report_repeated(((place.node, place.names()) for place in weight_places(graph)), calls, reporter)


def names_in_use(graph: Graph, names: Iterable[str]) -> set[str]:
    """All names of the tensors that are called like some names, but for numbers."""
    forms = {name.translate(_NO_NUMBERS) for name in names}
    return {
        name
        for place in (weight_places(graph) if forms else ())
        if any(pattern.translate(_NO_NUMBERS) in forms for pattern in place.patterns())
        for name in place.names()
    }


def _differ(graph: Graph) -> bool:
    """Whether it is certain that all names differ, without those of each expert: a model has thousands.

    Names that are equal are also alike without their numbers.  Among those, experts are counted in the same
    segments after the same prefixes, or it is not certain; so two names differ if the rest of them does.
    """
    alike: dict[str, _Alike] = {}
    of_node: dict[int, list[_Alike]] = {}
    for place in weight_places(graph):
        patterns = place.patterns()
        if id(place.node) not in of_node:
            of_node[id(place.node)] = [
                alike.setdefault(each.translate(_NO_NUMBERS), _Alike(_counted(each))) for each in patterns
            ]
            many = place.experts is not None and place.experts[1] > 1
            for each, known in zip(patterns, of_node[id(place.node)], strict=True):
                if _counted(each) != known.counted or (many and not known.counted):
                    return False
        for each, known in zip(patterns, of_node[id(place.node)], strict=True):
            if each in known.patterns:
                return False
            known.patterns.add(each)
    return True


@dataclass
class _Alike:
    """What names are that are alike but for numbers; `counted` are their segments that count experts."""

    counted: list[tuple[int, str]]
    patterns: set[str] = field(default_factory=set)


def _counted(pattern: str) -> list[tuple[int, str]]:
    return [(place, segment) for place, segment in enumerate(pattern.split(".")) if "*" in segment]


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
    notes: list[Note] = []
    if first is not node:
        notes = [Note("the first of them is here", first.span), *calls.get((first.path, first.id), ())]
    reached = calls.get((node.path, node.id), ())
    reporter.report(mistakes.DuplicatePath(node.written, path=name, notes=[*reached, *notes]))
