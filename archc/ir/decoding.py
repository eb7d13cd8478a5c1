"""What a model can do with a sequence that grows: read it in pieces with a cache, and write it itself."""

from __future__ import annotations

from typing import Any

from archc.ir.fixed import Fixed
from archc.ir.graph import Graph
from archc.ir.logits import LOGITS, possible_vocabulary, token_rows, vocabulary_of
from archc.ir.node import Node
from archc.ir.op import Trait
from archc.ir.ops.recurrence import CARRIED
from archc.ir.ops.structure import APPEND, KEEP, SCAN
from archc.ir.program import given_inputs, grows, sequences, tokens_of


def decodes(root: Graph) -> bool:
    """Whether a cache has been planned: tokens can come in pieces, or one by one."""
    if any(node.op in (APPEND, CARRIED, KEEP) for graph in root.walk() for node in graph.nodes()):
        return True
    return bool(vocabulary_of(root)) and not not_by_token(root) and _is_by_token(root)


def not_by_token(graph: Graph) -> str:
    """What goes in or comes out that is neither of each token nor of all; "" if nothing is."""
    tokens = sequences(graph)[-1].dims[1]
    for name, value in [*((graph.name_of(v), v) for v in given_inputs(graph)), *graph.outputs]:
        type_ = graph.type(value)
        if tokens in (type_.shape[2:] if grows(graph, value) else type_.shape):
            return f"`{name}` is {type_.shape_code}, which is more than a row for each token"
        if graph.is_output(value) and not grows(graph, value):
            return f"the model returns `{name}`, {type_.shape_code}, which is not a row for each token"
    return ""


def _is_by_token(root: Graph) -> bool:
    """Whether no token looks at others; a language model writes one by one without that, too."""
    fixed = Fixed(root)
    return all(
        fixed.has_all(graph, node.past or node.outputs)
        for graph in root.walk()
        for node in graph.nodes()
        if _looks_at_others(node)
    )


def _looks_at_others(node: Node) -> bool:
    keeps = node.past or node.op.carries or node.op is SCAN
    return bool(keeps) or not (node.op.internal or node.op.has(Trait.PER_TOKEN))


def depends_on_length(graph: Graph) -> bool:
    """Whether some token's position means something else in a longer sequence."""
    return bool(scalings_by_length(graph))


def scalings_by_length(graph: Graph) -> list[Any]:
    """The scalings of rotations that do so."""
    ropes = [node.attributes.get("rope") for part in graph.walk() for node in part.nodes()]
    scalings = [rope.scaling for rope in ropes if rope is not None and rope.scaling is not None]
    return [scaling for scaling in scalings if scaling.by_length]


def no_generation(graph: Graph, following: Graph | None) -> str:
    """Why a model that has a cache does not write tokens by itself; "" if it does.

    following: as in `Program`
    """
    if not vocabulary_of(graph):
        what = "no result of the model is" if len(graph.outputs) > 1 else "what the model returns is not"
        return f"{what} logits over its tokens{_if_they_are(graph)}"
    tokens = tokens_of(graph, sequences(graph)[-1])
    known = [name for name, _ in following.outputs] if following else []
    others = [graph.name_of(v) for v in given_inputs(graph) if grows(graph, v) and v != tokens]
    unknown = [f"`{name}`" for name in others if name not in known]
    return f"no default says what comes with a token to come: {' and '.join(unknown)}" if unknown else ""


def _if_they_are(graph: Graph) -> str:
    """How a spec says that a result is logits, where one may be."""
    width, rows = possible_vocabulary(graph), token_rows(graph)
    if not width:
        return ""
    first = f", of the first {width} of {rows}" if width < rows else ""
    subject = "one is" if len(graph.outputs) > 1 else "they are"
    return f"; if {subject}{first}, write `return {LOGITS} = ...`"
