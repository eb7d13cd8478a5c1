"""What only training needs is separated from everything else.

The `loss` and `note` statements of a graph become one node, or several where a term reads what others note.
It also computes what only they read.  The values that lead to a choice of experts are computed there a second
time, so that nothing else reads them and the choice with its arithmetic can become one kernel.  Notes that no
term reads are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from archc.ir.copier import Copier
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.structure import CONSTANT, INPUT, LOSSES, NOTED, WEIGHT
from archc.ir.types import DType
from archc.passes.context import Context


def part_losses(graph: Graph, _context: Context) -> None:
    """Join what training alone computes, apart from what all need."""
    read = set(_names_read(graph))
    for part in graph.walk():
        for statement in part.losses():
            if _is_note(statement) and _name(statement) not in read:
                part.remove(statement)
        for statements in _together(part):
            _Losses(part, statements).run()


def _names_read(graph: Graph) -> Iterator[str]:
    """The names of notes that terms read."""
    for part in graph.walk():
        for statement in part.losses():
            yield from _read_by(statement)


def _read_by(statement: Node) -> list[str]:
    """The names of notes that a statement reads."""
    body: Graph = statement.attributes["body"]
    return [node.attributes["name"] for node in body.nodes() if node.op is NOTED]


def _is_note(statement: Node) -> bool:
    return bool(statement.attributes["kinds"] == ("note",))


def _name(statement: Node) -> str:
    return str(statement.attributes["body"].outputs[0][0])


def _together(graph: Graph) -> list[list[Node]]:
    """The statements of a graph, in groups that can be one node each.

    A node runs where its last statement stands, and notes nothing before it is done: what a term reads of
    notes must be there before its group, and nothing may be noted from the term to the end of its group.
    """
    groups: list[list[Node]] = [[]]
    for node in graph.nodes():
        if node.op is LOSSES:
            if _must_wait(node, groups[-1]):
                groups.append([])
            groups[-1].append(node)
        elif any(part.losses() for body in node.bodies for part in body.walk()):
            groups.append([])
    return [group for group in groups if group]


def _must_wait(statement: Node, group: Sequence[Node]) -> bool:
    """Whether a statement reads notes, and a group notes some, or the other way round."""
    if _read_by(statement) and any(map(_is_note, group)):
        return True
    return _is_note(statement) and any(map(_read_by, group))


def read_by_losses(graph: Graph, counts: Callable[[Node], bool] = lambda _: True) -> set[int]:
    """Nodes that nothing but statements needs, of whichever group; `counts` says of which to tell."""
    statements = {each.id for each in graph.losses()}
    found = set(statements)
    for node in reversed(graph.nodes() if statements else ()):
        users = [user for value in node.outputs for user, _ in graph.users(value)]
        read_here = users and all(user.id in found for user in users)
        is_result = any(graph.is_output(value) for value in node.outputs)
        if read_here and not is_result and counts(node):
            found.add(node.id)
    return found - statements


class _Losses:
    """Statements of one graph.  `outside` copies into the joined body what they read of the graph."""

    def __init__(self, graph: Graph, statements: Sequence[Node]):
        self.graph = graph
        self.statements = statements
        self.body = Graph(f"{graph.name}.losses")
        self.captured: dict[Value, Value] = {}
        self.outside = Copier(self.body)
        self.alone = read_by_losses(graph, _is_movable)
        self.copied = self._before_choices()

    def run(self) -> None:
        graph = self.graph
        kinds = [kind for each in self.statements for kind in each.attributes["kinds"]]
        for each in self.statements:
            self._take_body(each)
        self.body.inputs = list(self.captured.values())
        last = self.statements[-1]
        for each in self.statements:
            graph.remove(each)
        graph.add_like(last, LOSSES, list(self.captured), {"kinds": tuple(kinds), "body": self.body})
        graph.remove_unread([node for node in graph.nodes() if node.id in self.alone])

    def _take_body(self, statement: Node) -> None:
        """Write a statement's body into the joined one."""
        body: Graph = statement.attributes["body"]
        inner = {
            value: self._value(outer) for value, outer in zip(body.inputs, statement.operands, strict=True)
        }
        copier = Copier(self.body, inner)
        for node in body.nodes():
            if node.op is not INPUT:
                copier.copy(node)
        self.body.outputs += [(name, copier.values[value]) for name, value in body.outputs]

    def _value(self, outer: Value) -> Value:
        """What stands in the body for a value outside: itself, or what computes it there."""
        if outer not in self.outside.values:
            node = self.graph.node(outer)
            if node.op is CONSTANT or node.id in self.alone or node.id in self.copied:
                for value in node.inputs:
                    if value is not None:
                        self._value(value)
                self.outside.copy(node)
            else:
                name, type_ = self.graph.name_of(outer), self.graph.type(outer)
                self.captured[outer] = self.body.add_input(name, type_, node.span)
                self.outside.values[outer] = self.captured[outer]
        return self.outside.values[outer]

    def _before_choices(self) -> set[int]:
        """Nodes on the way to a choice that are cheap to compute a second time."""
        found: set[int] = set()
        for node in self.graph.nodes():
            if _chooses(self.graph, node):
                found |= self.graph.needed_by(node.id)
        return {number for number in found if _is_light(self.graph.node(number))}


def _is_movable(node: Node) -> bool:
    kept = node.op in (INPUT, WEIGHT) or node.bodies
    return not kept and not node.op.has(Trait.EFFECT)


def _is_light(node: Node) -> bool:
    heavy = any(map(node.op.has, (Trait.LINEAR, Trait.MATRIX, Trait.NORM)))
    whole_numbers = any(type_.dtype is DType.I64 for type_ in node.types)
    return _is_movable(node) and node.op.has(Trait.PER_TOKEN) and not heavy and not whole_numbers


def _chooses(graph: Graph, node: Node) -> bool:
    """Whether an op makes whole numbers of real ones."""
    made = any(type_.dtype is DType.I64 for type_ in node.types)
    given = [graph.type(value) for value in node.operands]
    return made and any(type_.dtype.is_floating for type_ in given)
