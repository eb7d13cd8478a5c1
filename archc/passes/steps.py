"""What the steps of a scan need not wait for is computed before it, for all tokens at once.

A body computes of each token by itself, so whatever does not depend on a state is the same outside of it: one
product of all tokens' rows, in place of a product for each.
"""

from __future__ import annotations

from archc.ir.copier import Copier
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.ops.structure import CONSTANT, INPUT
from archc.ir.scan_form import scan_form
from archc.passes.context import Context


def part_steps(graph: Graph, _context: Context) -> None:
    """Compute before a scan what its steps need not wait for."""
    for part in graph.walk():
        for scan in part.scans():
            _Parting(part, scan).run()


class _Parting:
    """One scan."""

    def __init__(self, graph: Graph, scan: Node):
        self.graph = graph
        self.scan = scan
        (self.body,) = scan.bodies
        self.form = scan_form(scan)
        self.copier = Copier(graph)

    def run(self) -> None:
        graph, body, form = self.graph, self.body, self.form
        states = body.inputs[: len(form.states)]
        waiting = {state.node for state in states}.union(*(body.depends_on(state.node) for state in states))
        moving = [n for n in body.nodes() if n.op not in (INPUT, CONSTANT) and n.id not in waiting]
        self.copier.values = dict(zip(body.inputs[len(states) :], form.taken, strict=True))
        for node in moving:
            self._move(node)
        left = body.left_by(moving)
        taken = [*form.taken, *(self.copier.values[value] for value in left)]
        for value in left:
            span = body.node(value).span
            body.replace_uses(value, body.add_input(body.name_of(value), body.type(value), span))
        for node in reversed(moving):
            body.remove(node)
        graph.update(self.scan, inputs=(*self.scan.inputs[: len(self.scan.inputs) - len(form.taken)], *taken))

    def _move(self, node: Node) -> None:
        """Put a node before the scan; numbers that it reads come with it."""
        *before, last = self.scan.order
        order = (*before, last - 1, *node.order)
        for value in node.inputs:
            if value is not None and value not in self.copier.values:
                self.copier.copy(self.body.node(value), order=order)
        self.copier.copy(node, order=order)
