"""Learned tokens in front of a sequence, in generated modules: put there, and left out of results."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from archc.codegen.code import Line
from archc.ir.graph import Graph
from archc.ir.program import front_of, given_inputs, grows


def front_lines(graph: Graph, arguments: Sequence[str], cached: bool) -> list[Line]:
    """Statements that put learned tokens before those given, if a graph has any; in a cache they come once.

    arguments: what the given inputs are called
    """
    count = front_of(graph)
    if not count:
        return []
    times = f"0 if cache is not None and cache.length else {count}" if cached else str(count)
    inputs = zip(arguments, given_inputs(graph), strict=True)
    given = ", ".join(name for name, value in inputs if grows(graph, value))
    put = f"padding, {given} = with_front(front, padding, {given})"
    return [Line(f"front = {times}  # learned tokens"), Line(put)]


def without_front(graph: Graph, results: str) -> str:
    """Results of a graph, of those tokens that were given; `results` are their texts."""
    told = zip(texts_of(results), graph.outputs, strict=True)
    return ", ".join(_cut(text) if grows(graph, value) else text for text, (_, value) in told)


def texts_of(results: str) -> list[str]:
    """The texts of single results, of what a method returns."""
    elements = ast.parse(f"({results},)", mode="eval").body
    assert isinstance(elements, ast.Tuple)
    return [ast.unparse(element) for element in elements.elts]


def _cut(text: str) -> str:
    return f"{text}[:, front:]" if text.isidentifier() else f"({text})[:, front:]"
