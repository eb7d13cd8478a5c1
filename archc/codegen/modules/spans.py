"""Spans in generated modules: the positions of a call's tokens, and of the keys that they see."""

from __future__ import annotations

from collections.abc import Sequence

from archc.codegen.code import Line
from archc.ir.graph import Graph
from archc.ir.node import Value
from archc.ir.program import Sequence as Tokens
from archc.ir.program import given_inputs, positions_named, sequences, tokens_of


def read_off_spans(graph: Graph) -> dict[Value, str]:
    """The texts of positions, by the inputs that stand for them."""
    found: dict[Value, str] = {}
    for value in graph.inputs:
        known = positions_named(graph.node(value).attributes["name"])
        if known is not None:
            found[value] = f"{Tokens(known[0], ()).called('span')}.{known[1]}"
    return found


def span_lines(graph: Graph, arguments: Sequence[str], cached: bool, packed: bool) -> list[Line]:
    """Where the tokens of each sequence stand; `arguments` are what the given inputs are called.

    packed: whether there may be documents, in each of which positions begin anew
    """
    *others, last = sequences(graph)
    called = dict(zip(given_inputs(graph), arguments, strict=True))
    lines: list[Line] = []
    for each in (*others, last):
        tokens = called[tokens_of(graph, each)]
        make = "fixed_span" if cached and each is not last else "spans"
        cache = ", cache" if cached else ""
        call = f"{make}({tokens}, {each.called('padding')}{cache})"
        call += " if documents is None else packed_span(documents)" if packed else ""
        lines.append(Line(f"{each.called('span')} = {call}"))
    return lines


def span_of(text: str) -> str:
    """The span that a text reads positions off, `decoder_span` of `decoder_span.positions`, or nothing."""
    owner, dot, _ = text.partition(".")
    return owner if dot and owner.endswith("span") else ""


def with_spans(operands: Sequence[str]) -> list[str]:
    """Operands, with each span itself once in place of all that is read off it."""
    texts = [span_of(text) or text for text in operands]
    return [text for place, text in enumerate(texts) if not (is_span(text) and text in texts[:place])]


def is_span(text: str) -> bool:
    """Whether a variable is a span."""
    return text == "span" or text.endswith("_span")


def with_one_span(operands: Sequence[str]) -> list[str]:
    """Operands of attention, with one span for the positions of queries and those of keys."""
    queries, keys = [place for place, text in enumerate(operands) if span_of(text)]
    query_span, key_span = span_of(operands[queries]), span_of(operands[keys])
    recent, _, _ = operands[keys].rpartition(".")  # `span.recent(512)` where keys come from a ring
    one = recent if query_span == key_span else f"{query_span}.across({key_span})"
    return [one if place == queries else text for place, text in enumerate(operands) if place != keys]
