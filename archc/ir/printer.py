"""Graphs as short typed lines, for people and for golden tests."""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.node import Node, Value, stored_in
from archc.ir.ops.structure import BRANCH, CONSTANT, EXPERTS, INPUT, LOOP, LOSSES, SCAN, WEIGHT
from archc.ir.paths import path_text
from archc.ir.records import attribute_text


def print_graph(graph: Graph) -> str:
    """The graph as text: inputs, a line a node, outputs; bodies of loops and experts are indented."""
    return "\n".join(_Printer(graph).lines("")) + "\n"


class _Printer:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.names: dict[Value, str] = {}
        self._taken: dict[str, int] = {}

    def lines(self, indent: str) -> list[str]:
        text: list[str] = []
        nodes = self.graph.nodes()
        for node in nodes:
            self._name(node)
        inputs = ", ".join(f"%{self.names[v]}: {self.graph.type(v)}" for v in self.graph.inputs)
        text.append(f"{indent}graph {self.graph.name}({inputs}) {{")
        for node in nodes:
            if node.op is not INPUT and node.op is not WEIGHT and node.op is not CONSTANT:
                text += self._line(node, indent + "  ")
        outputs = ", ".join(f"{name} = {self._operand(value)}" for name, value in self.graph.outputs)
        return [*text, f"{indent}  return {outputs}", f"{indent}}}"]

    def _name(self, node: Node) -> None:
        for value in node.outputs:
            name = self.graph.name_of(value) or node.op.name
            count = self._taken[name] = self._taken.get(name, 0) + 1
            self.names[value] = name if count == 1 else f"{name}_{count}"

    def _operand(self, value: Value | None) -> str:
        if value is None:
            return "none"
        node = self.graph.node(value)
        if node.op is WEIGHT:
            return "@" + "|".join(path_text(stored.path) for stored in stored_in(node))
        if node.op is CONSTANT:
            return attribute_text(node.attributes["value"])
        return f"%{self.names[value]}"

    def _line(self, node: Node, indent: str) -> list[str]:
        results = ", ".join(f"%{self.names[value]}" for value in node.outputs)
        types = ", ".join(map(str, node.types))
        operands = ", ".join(map(self._operand, node.inputs))
        place = f"  # {node.span.line_reference}" if node.span else ""
        if node.op is LOOP:
            return self._loop(node, indent, f"{results} = loop({operands})", f" : {types}{place}")
        if node.op is EXPERTS:
            return self._experts(node, indent, f"{results} = experts({operands})", f" : {types}{place}")
        if node.op is SCAN:
            names = ", ".join(node.attributes["states"])
            return self._bodies(node, indent, f"{results} = scan({operands}) with {names} {{: {types}{place}")
        if node.op is BRANCH:
            head = f"{results} = branch({operands}) few = {node.attributes['few']} {{: {types}{place}"
            return self._bodies(node, indent, head)
        if node.op is LOSSES:
            inner = _Printer(node.attributes["body"]).lines(indent + "  ")
            kinds = ", ".join(node.attributes["kinds"])
            return [f"{indent}losses({operands}) : {kinds} {{{place}", *inner, f"{indent}}}"]
        shown = {name: attribute_text(value) for name, value in node.attributes.items()}
        attributes = ", ".join(f"{name} = {text}" for name, text in shown.items())
        braces = f" {{{attributes}}}" if attributes else ""
        return [f"{indent}{results} = {node.op.name}({operands}){braces} : {types}{place}"]

    def _loop(self, node: Node, indent: str, head: str, tail: str) -> list[str]:
        variable = node.attributes["variable"]
        schedule = schedule_text(node)
        head = f"{head} for {variable} in {_indices_text(node)}{schedule} {{{tail.strip()}"
        return self._bodies(node, indent, head)

    def _bodies(self, node: Node, indent: str, head: str) -> list[str]:
        text = [f"{indent}{head}"]
        for body in node.bodies:
            text += _Printer(body).lines(indent + "  ")
        return [*text, f"{indent}}}"]

    def _experts(self, node: Node, indent: str, head: str, tail: str) -> list[str]:
        variable, count = node.attributes["variable"], node.attributes["count"]
        text = [f"{indent}{head} for {variable} of {count} {{{tail.strip()}"]
        return [*text, *_Printer(node.bodies[0]).lines(indent + "  "), f"{indent}}}"]


def _indices_text(node: Node) -> str:
    indices = node.attributes["indices"]
    return f"{indices[0]}..{indices[-1] + 1}" if len(indices) else "nothing"


def schedule_text(node: Node) -> str:
    """Which body each iteration runs, as runs of equal ones: `0 x3, 1 x58`."""
    schedule: tuple[int, ...] = node.attributes["schedule"]
    runs: list[list[int]] = []
    for body in schedule:
        if runs and runs[-1][0] == body:
            runs[-1][1] += 1
        else:
            runs.append([body, 1])
    if len(node.bodies) == 1:
        return ""
    shown = ", ".join(f"{body} x{count}" for body, count in runs[:12])
    return f" by [{shown}{', ...' if len(runs) > 12 else ''}]"
