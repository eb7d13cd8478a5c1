"""Ops on rows become one op, whatever they are: what happens to a row before and after a norm joins it.

A group starts from its last op and takes in the ops that make its operands, as long as one program can hold
a row of everything.  Numbers that many values share, one for each token, head, layer or sequence, are
operands too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush

from archc.ir.family import SPLITS
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.structure import CONSTANT
from archc.ir.origins import Origins, mixes_sequences, once_in
from archc.ir.row_form import RENAMED, fits_row, is_dot, is_row_op, row_form
from archc.ir.rule import rule_of
from archc.ir.types import DType
from archc.passes.clean import merge_equal
from archc.passes.context import Context, remaining
from archc.passes.join import ADD, after_head, chain_name, is_joined, operand_name
from archc.passes.outline import Outline, replace_by_one

UPCAST = OPS["upcast"]
_MOST_STEPS = 24  # what a person reads in one piece
_MOST_OPERANDS = 8  # tensors that a program holds at once, and their gradients
_FUSED = ("norm", "pointwise", "row")


def join_rows(graph: Graph, context: Context) -> None:
    """Compute ops on rows together that are around norms or differ in shape, where the target can."""
    if "row" not in context.target.families:
        return
    for part, _ in graph.runs():
        _cast_apart(part)
    kept = set(after_head(graph))
    once = once_in(graph)
    for part, times in graph.runs():
        rows = Rows(part, once)
        for node in reversed(part.nodes()):
            if node.id in part and not (part is graph and node.id in kept) and _can_end(node):
                rows.join(node, times, context)
        merge_equal(part, remaining(part, UPCAST))
    context.report.sort()


def _cast_apart(graph: Graph) -> None:
    """Give each op on rows a cast to float32 of its own: kernels read what is narrow and cast it."""
    for node in graph.nodes():
        if node.op is UPCAST and not graph.is_output(node.outputs[0]):
            users = list(dict.fromkeys(user.id for user, _ in graph.users(node.outputs[0])))
            for user in [graph.node(number) for number in users if is_on_rows(graph.node(number))][1:]:
                own = graph.add_like(node, UPCAST, node.inputs, names=node.names)
                inputs = [own.outputs[0] if value in node.outputs else value for value in user.inputs]
                graph.update(user, inputs=tuple(inputs))


class Rows:
    """A graph whose ops are grouped.

    order: where each node stands in it at present
    once:  values that stand for all sequences, with their graphs: rows of others have no place beside them
    """

    def __init__(self, graph: Graph, once: Origins):
        self.graph = graph
        self.once = once
        self.order = _places(graph)

    def join(self, last: Node, times: int, context: Context) -> None:
        """Compute an op and what leads to it together, where that needs a kernel of whole rows."""
        makers = self._makers(self.graph.node(last.id))
        if not any(is_on_rows(self.graph.node(number)) for _, number in makers):
            return
        group = self._group(last)
        if len(group) > 1 and not self._is_left(group):
            outline = Outline(self.graph, group, "y", operand_name, whole_rows=True)
            replace_by_one(outline, chain_name(group), last, times, context)
            self.order = _places(self.graph)

    def _group(self, last: Node) -> list[Node]:
        """An op, and those before it that one kernel can compute with it; in the order of the graph."""
        inside: dict[int, Node] = {}
        waiting = [(-self.order[last.id], last.id)]
        while waiting:
            _, number = heappop(waiting)
            for each in self._joining(self.graph.node(number), inside):
                inside[each.id] = each
                for maker in self._makers(each):
                    heappush(waiting, maker)
        return self.sorted(inside.values())

    def _joining(self, node: Node, inside: Mapping[int, Node]) -> list[Node]:
        """What joins a group with a node: what makes its float32 operands too, the node alone, or nothing."""
        if node.id in inside:
            return []
        held = self._in_registers(node)
        for taken in (held, [node]) if len(held) > 1 else (held,):
            if all(map(is_on_rows, taken)) and self.is_one_kernel(self.sorted((*inside.values(), *taken))):
                return taken
        return []

    def _in_registers(self, node: Node) -> list[Node]:
        """A node, and those that make its float32 operands, which are better held in registers than moved."""
        found, waiting = {node.id: node}, [node]
        while waiting:
            for value in filter(None, waiting.pop().inputs):
                maker = self.graph.node(value)
                if maker.id not in found and self.graph.type(value).dtype is DType.F32 and is_on_rows(maker):
                    found[maker.id] = maker
                    waiting.append(maker)
        return list(found.values())

    def sorted(self, nodes: Iterable[Node]) -> list[Node]:
        """Nodes in the order of the graph, each once."""
        return sorted({node.id: node for node in nodes}.values(), key=lambda node: self.order[node.id])

    def _makers(self, node: Node) -> list[tuple[int, int]]:
        """What makes a node's operands, the last first: by then it is known what else reads them."""
        numbers = {value.node for value in node.operands}
        numbers = {number for number in numbers if self.graph.node(number).op is not CONSTANT}
        return sorted((-self.order[number], number) for number in numbers)

    def is_one_kernel(self, nodes: Sequence[Node]) -> bool:
        """Whether one kernel can compute nodes: rows of one shape that fit, and no path out and in again."""
        outline = Outline(self.graph, nodes, "y", operand_name, whole_rows=True)
        rule = outline.rule("rows", nodes[-1].written)
        after = set().union(*(self.graph.depends_on(node.id) for node in nodes))
        if any(value.node in after for value in outline.operands) or self._is_mixed(outline.operands):
            return False
        computed = [step for step in rule.steps if step.op.name not in RENAMED]
        if len(computed) > _MOST_STEPS or len(rule.operands) > _MOST_OPERANDS:
            return False
        types = {name: self.graph.type(value) for value, name in outline.operands.items()}
        form = row_form(rule.decompose(types, {})) if rule.outputs else None
        return form is not None and fits_row(form)

    def _is_mixed(self, values: Iterable[Value]) -> bool:
        """Whether some values have rows of all sequences, and some those of a single one."""
        rows = [
            value for value in values if any(isinstance(dim, str) for dim in self.graph.type(value).shape)
        ]
        return mixes_sequences(self.graph, rows, self.once)

    def _is_left(self, group: Sequence[Node]) -> bool:
        """Whether no kernel of whole rows is needed: all of one shape, or sums, whose gradients are free."""
        if any(rule_of(node) is not None for node in group):
            return False
        alike = all(is_joined(self.graph, node, self.once) for node in group)
        return alike or all(node.op is ADD for node in group)


def _places(graph: Graph) -> Mapping[int, int]:
    return {node.id: place for place, node in enumerate(graph.nodes())}


def _can_end(node: Node) -> bool:
    """Whether a group may have an op's result as its last."""
    return is_on_rows(node) and node.op is not LINEAR and node.op.name not in RENAMED - {"cast_like"}


def is_on_rows(node: Node) -> bool:
    """Whether a kernel of rows can compute an op, or a fusion."""
    rule = rule_of(node)
    if rule is not None:
        turns = any(step.op.name in SPLITS and step.op.name != "split" for step in rule.steps)
        return rule.family in _FUSED and not turns
    floating = all(type_.dtype in (DType.FLOAT, DType.F32) for type_ in node.types)
    return (is_row_op(node.op) or is_dot(node)) and node.op.name != "split" and floating
