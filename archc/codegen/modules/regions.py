"""Nodes whose bodies are written inline: experts, terms of a loss, the two forms of attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from archc.codegen.code import Line
from archc.codegen.literals import attribute_code, tuple_text
from archc.codegen.names import identifier
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value

if TYPE_CHECKING:
    from archc.codegen.modules.lines import Emitter


@dataclass(frozen=True)
class _Experts:
    """The body of experts, and the texts of what it takes from outside."""

    node: Node
    captured: Sequence[str]

    @property
    def graph(self) -> Graph:
        return self.node.bodies[0]

    @property
    def whole(self) -> dict[Value, str]:
        """What it reads whole, or its own of all experts', by its own inputs."""
        own = f"[{identifier(self.node.attributes['variable'])}]"
        places = {"whole": "", "expert": own}
        return {value: text + places[kind] for value, text, kind in self._inputs() if kind in places}

    @property
    def wanted(self) -> dict[Value, str]:
        """Names for its other inputs: those that they have outside."""
        of_rows = [(v, text) for v, text, kind in self._inputs() if kind in ("token", "choice")]
        return {value: text for value, text in of_rows if text.isidentifier()}

    def texts(self, kind: str) -> list[str]:
        """What it takes in one way."""
        return [text for _, text, each in self._inputs() if each == kind]

    def _inputs(self) -> Iterator[tuple[Value, str, str]]:
        yield from zip(self.graph.inputs, self.captured, self.node.attributes["taken"], strict=True)


def write_experts(emitter: Emitter, node: Node) -> None:
    """The body as a function, and the loop that calls it for one expert after the other."""
    emitter.enter(node)
    style = emitter.style
    chosen, *captured = emitter.operands(node)
    body = _Experts(node, captured)
    name = unique("expert", {*emitter.variables.owned, *style.reserved})
    emitter.lines += [Line(""), *_expert_function(emitter, name, body), Line("")]
    count = attribute_code(node.attributes["count"], style.comments)
    given = (name, count, chosen, tuple_text(body.texts("token")), tuple_text(body.texts("choice")))
    target = emitter.variables.bind(node.outputs[0])
    function = "experts.apart" if node.attributes["apart"] else "experts.each"
    emitter.lines.append(Line(f"{target} = {function}({', '.join(given)})", emitter.comment_of(node)))


def _expert_function(emitter: Emitter, name: str, body: _Experts) -> list[Line]:
    """What one expert does with its rows; what it reads whole are variables of the code around it."""
    variable = identifier(body.node.attributes["variable"])
    reserved = emitter.style.reserved | {variable, *body.whole.values()}
    weights = emitter.style.of_experts.get(body.node.id, {})
    inner = emitter.inner(body.graph, weights=weights, reserved=reserved)
    arguments = inner.arguments(body.whole, body.wanted)
    (result,) = inner.run()
    lines = [line.indented() for line in inner.lines]
    last = inner.lines[-1] if inner.lines else Line("")
    if last.code.startswith(f"{result} = "):
        lines[-1] = Line(f"    return {last.code.removeprefix(f'{result} = ')}", last.comment)
    else:
        lines.append(Line(f"    return {result}"))
    parameters = [f"{variable}: int", *(f"{argument}: Tensor" for argument in arguments)]
    return [Line(f"def {name}({', '.join(parameters)}) -> Tensor:"), *lines]


def write_losses(emitter: Emitter, node: Node) -> None:
    """What is computed where a loss is asked for, and nowhere else."""
    emitter.enter(node)
    lines, results = _inside(emitter, node.attributes["body"], emitter.operands(node), emitter.variables.busy)
    names = [name for name, _ in node.attributes["body"].outputs]
    left = [
        Line(f'losses.{"add" if kind == "loss" else "note"}("{name}", {text})')
        for kind, name, text in zip(node.attributes["kinds"], names, results, strict=True)
    ]
    emitter.lines += [Line("if losses is not None:"), *(line.indented() for line in [*lines, *left])]


def write_branch(emitter: Emitter, node: Node) -> None:
    """One way for many new tokens, another for a few after a cache."""
    emitter.enter(node)
    operands, busy = emitter.operands(node), emitter.variables.busy
    inside = [_inside(emitter, body, operands, busy) for body in node.bodies]
    (value,), (_, (called,)) = node.outputs, inside[0]
    wanted = called if called.isidentifier() and not emitter.graph.name_of(value) else ""
    target = emitter.variables.bind(value, wanted)
    tests = (f"if cache is None or {operands[0]}.shape[1] > {node.attributes['few']}:", "else:")
    comments = (
        "so many new tokens that full keys and values cost less",
        "the same without them: queries and sums take over their maps",
    )
    for test, comment, (lines, (text,)) in zip(tests, comments, inside, strict=True):
        if text != target:
            lines.append(Line(f"{target} = {text}", emitter.comment_of(node)))
        emitter.lines.append(Line(test, comment if emitter.style.comments else ""))
        emitter.lines += [line.indented() for line in lines]


def _inside(
    emitter: Emitter, body: Graph, operands: Sequence[str], busy: set[str]
) -> tuple[list[Line], list[str]]:
    """The statements and results of a body that reads variables around it, and leaves `busy` ones alone."""
    inner = emitter.inner(body, reserved=emitter.style.reserved | busy)
    inner.arguments(dict(zip(body.inputs, operands, strict=True)))
    results = inner.run()
    return inner.lines, results
