"""What decoding keeps of earlier tokens, where a model can decode at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from archc.ir.decoding import not_by_token
from archc.ir.fixed import Fixed
from archc.ir.graph import Graph
from archc.ir.logits import vocabulary_of
from archc.ir.names import unique
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.recurrence import CARRIED
from archc.ir.ops.structure import APPEND, SCAN
from archc.ir.program import KEY_POSITIONS, POSITIONS
from archc.ir.scan_form import scan_form
from archc.ir.types import Dim
from archc.passes.cache_report import describe
from archc.passes.clean import drop_unused
from archc.passes.context import Context, place_of
from archc.passes.cut import Cut, Reader
from archc.passes.keep import keep_fixed
from archc.passes.keeper import Keeper
from archc.passes.losses import read_by_losses
from archc.passes.standing import Place, Standing


def plan_cache(graph: Graph, context: Context) -> None:
    """Put `append` where the fewest bytes of a token are kept, if decoding is possible at all."""
    obstacle = _obstacle(graph)
    if obstacle:
        context.report.remark("cache", f"no cached decoding: {obstacle}")
        return
    fixed = Fixed(graph)
    parts = list(graph.runs())
    readers = [
        Reader(part, node)
        for part, _ in parts
        for node in part.nodes()
        if node.op.past and not fixed.has_all(part, node.past)
    ]
    if readers:
        cut = Cut(graph, readers, context.target)
        for part, times in parts:
            if cut.kept_in(part) or any(graph is part for graph, _ in readers):
                context.report.remark("cache", describe(part, times, cut, context.target))
        Keeper(graph, cut, {}).keep()
        _tidy(graph, cut, context)
    for part, times in parts:
        _carry(part, times, fixed, context)
    keep_fixed(graph, fixed)


def _carry(graph: Graph, times: int, fixed: Fixed, context: Context) -> None:
    """Give each op its state that carries one from token to token."""
    slots = {node.attributes["slot"] for node in graph.nodes() if node.op is APPEND}
    for node in graph.nodes():
        if node.op is SCAN and not fixed.has_all(graph, node.outputs):
            _carry_states(graph, node, times, slots, context)
        if node.op.carries is None or fixed.has_all(graph, node.outputs):
            continue
        *given, _ = node.inputs
        shape = node.op.carries(node.op.call([v and graph.type(v) for v in node.inputs], node.attributes))
        state = _state(graph, node, "state", shape, slots)
        graph.update(node, inputs=(*given, state))
        _remark(graph, node, [state], times, context)


def _carry_states(graph: Graph, scan: Node, times: int, slots: set[str], context: Context) -> None:
    """Give a scan its states that go on from token to token."""
    form = scan_form(scan)
    named = zip(scan.attributes["states"], form.starts, strict=True)
    states = [_state(graph, scan, name, graph.type(start).shape, slots) for name, start in named]
    graph.update(scan, inputs=replace(form, states=tuple(states)).inputs)
    _remark(graph, scan, states, times, context)


def _state(graph: Graph, node: Node, name: str, shape: Sequence[Dim], slots: set[str]) -> Value:
    """What a cache holds between tokens, in a slot of a name that is free."""
    slot = unique(name, slots)
    slots.add(slot)
    attributes = {"slot": slot, "shape": tuple(shape)}
    return graph.add_like(node, CARRIED, node.inputs[:1], attributes, names=(name,)).outputs[0]


def _remark(graph: Graph, node: Node, states: Sequence[Value], times: int, context: Context) -> None:
    held = [graph.node(state).attributes for state in states]
    kept = ", ".join(f"{each['slot']} {' x '.join(map(str, each['shape']))}" for each in held)
    layers = f" in each of {times} layers" if times > 1 else ""
    context.report.remark("cache", f"{place_of(node)}: decoding carries {kept}{layers}")


def _obstacle(graph: Graph) -> str:
    """Why a token cannot be computed from the past alone, or need not be; "" if it can."""
    if reason := not_by_token(graph):
        return reason
    fixed, standing, looks = Fixed(graph), Standing(graph), bool(vocabulary_of(graph))
    for part in graph.walk():
        unread = read_by_losses(part)
        for node in part.nodes():
            if fixed.has_all(part, node.outputs) or node.id in unread:
                continue
            mask = node.attributes.get("mask")
            if mask is not None and not mask.causal and not fixed.has_all(part, node.past):
                return f"`{mask}` lets tokens see later ones ({place_of(node)})"
            if mask is not None and (reason := _sees_later(part, node, standing)):
                return f"{reason} ({place_of(node)})"
            keeps = node.op.past or node.op.carries or node.op is SCAN
            if not (node.op.internal or keeps or node.op.has(Trait.PER_TOKEN)):
                return f"`{node.op.name}` looks at tokens of which a cache keeps nothing ({place_of(node)})"
            looks = looks or bool(keeps)
    return "" if looks else "no token looks at others: there is nothing to keep"


def _sees_later(graph: Graph, reader: Node, standing: Standing) -> str:
    """Why positions may let a token see later ones, whatever the mask; "" if they do not."""
    queries, keys = reader.named.get(POSITIONS), reader.named.get(KEY_POSITIONS)
    if queries is not None and not standing.never_after(Place(graph, queries)):
        return "queries may stand after their tokens, and then see later ones"
    if keys is not None and not standing.never_before(Place(graph, keys)):
        return "keys may stand before their tokens, and are then seen by earlier ones"
    return ""


def _tidy(graph: Graph, cut: Cut, context: Context) -> None:
    """Remove what was computed for new tokens alone, and is computed for all tokens now."""
    for part in {reader.graph: None for reader in cut.readers}:
        goals = [value for graph, node in cut.readers if graph is part for value in node.past]
        part.remove_unread(part.between(cut.here(part), goals))
    if cut.taken:
        drop_unused(graph, context)
