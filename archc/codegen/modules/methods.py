"""Graphs -> methods: their arguments, statements and results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from archc.codegen.code import Argument, Line
from archc.codegen.literals import result_type, shapes_text
from archc.codegen.modules.class_plan import Fixed, Method
from archc.codegen.modules.kept import KeptPart
from archc.codegen.modules.lines import Emitter
from archc.codegen.modules.spans import is_span, with_spans
from archc.codegen.modules.style import Style
from archc.ir.graph import Graph
from archc.ir.node import Value
from archc.ir.ops.structure import WEIGHT

# Inputs that may be None, as (graph, input).
Optional = Collection[tuple[int, int]]


def write_method(emitter: Emitter, given: Mapping[Value, str], optional: Optional) -> Method:
    """The method that computes an emitter's graph; inputs that are `given` a text are read off a span."""
    emitter.arguments(given)
    arguments = _arguments(emitter.graph, emitter.called, optional)
    outputs = zip(emitter.graph.outputs, emitter.run(), strict=True)
    results = [_result(emitter.graph, value, text) for (_, value), text in outputs]
    return Method(arguments, _tidy(emitter.lines), ", ".join(results), result_type(len(results)))


def write_fixed(graph: Graph, style: Style, given: Mapping[Value, str], optional: Optional) -> Fixed | None:
    """The method for what a graph keeps while tokens are added; None where it keeps nothing.

    It is called once, with all that is kept, and has no kernels of one row.
    """
    part = KeptPart(graph)
    if not part.keeps:
        return None
    style = replace(style, linears_after=Style.linears_after)
    method = write_method(Emitter(part.alone(), style), given, optional)
    losses = (Argument("losses", "Losses | None"),) if part.trains else ()
    return Fixed(
        arguments=(*method.arguments, *losses),
        lines=method.lines,
        result=method.result,
        result_type=method.result_type,
        shapes=shapes_text([graph.type(value).shape for value in part.values]),
    )


def _result(graph: Graph, value: Value, text: str) -> str:
    """A result's text; a weight that the next layer reads, as of a norm, must outlast its layer's call."""
    return f"lasting({text})" if graph.node(value).op is WEIGHT else text


def _arguments(graph: Graph, called: Mapping[Value, str], optional: Optional) -> tuple[Argument, ...]:
    """One for each input, but one for all that is read off the same span."""
    inputs = {name: (id(graph), value.node) for value, name in called.items()}
    arguments: list[Argument] = []
    for name in with_spans(list(called.values())):
        kind = "Span" if is_span(name) else "Tensor"
        arguments.append(Argument(name, f"{kind} | None" if inputs.get(name) in optional else kind))
    return tuple(arguments)


def _tidy(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Without blank lines at the start or in a row."""
    kept: list[Line] = []
    for line in lines:
        blank = not str(line)
        if not (blank and (not kept or not str(kept[-1]))):
            kept.append(line)
    return tuple(kept)
