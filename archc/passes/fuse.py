"""Applies the fusion rules, larger ones first."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.program import (
    KEY_POSITIONS,
    POSITIONS,
    Places,
    mixes_sequences,
    once_in,
    positions_in,
    whole_in,
)
from archc.ir.row_form import clashing_name, fits_row, row_form
from archc.ir.rule import Rule, rule_of
from archc.ir.types import Dim
from archc.passes.context import Context, place_of
from archc.passes.matcher import Match, Matcher
from archc.passes.report import Fired, Missed


@dataclass(frozen=True)
class _Known:
    """What is known of values in all parts of a graph: positions, and what follows from such numbers."""

    positions: Places
    whole: set[tuple[int, Value]]
    once: set[tuple[int, Value]]


@dataclass(frozen=True)
class _Attempt:
    """A rule that did not match at a node, how far it came, and why it went no further."""

    rule: Rule
    depth: int
    reason: str


def fuse(graph: Graph, context: Context) -> None:
    """Replace every decomposition that the target has a kernel for by the fused op."""
    rules = sorted(context.rules, key=lambda rule: -len(rule.steps))
    known = _Known(positions_in(graph), whole_in(graph), once_in(graph))
    for part, times in graph.runs():
        attempts: dict[int, list[_Attempt]] = {}
        for rule in rules:
            _apply_everywhere(rule, part, times, context, attempts, known)
        _report_missed(part, attempts, context)
    context.report.sort()


def _apply_everywhere(
    rule: Rule,
    graph: Graph,
    times: int,
    context: Context,
    attempts: dict[int, list[_Attempt]],
    known: _Known,
) -> None:
    wanted = rule.steps[rule.root].op
    for node in graph.nodes():
        if node.op is not wanted or node.id not in graph:
            continue
        matcher = Matcher(rule, graph)
        match = matcher.match(node)
        if match is None:
            failure = matcher.failure
            attempts.setdefault(node.id, []).append(_Attempt(rule, failure.depth, failure.reason))
            continue
        obstacle = _obstacle(rule, graph, match, context, known)
        if obstacle:
            attempts.setdefault(node.id, []).append(_Attempt(rule, len(rule.steps), obstacle))
            continue
        fused = _replace(rule, graph, match)
        attempts[fused.id] = attempts.pop(node.id, [])
        relaxations = ("fewer_roundings",) if _rounds_inside(rule) else ()
        context.report.fired.append(Fired(rule.name, place_of(node), times, relaxations, node.span))


def _obstacle(rule: Rule, graph: Graph, match: Match, context: Context, known: _Known) -> str:
    """Why the target has no kernel for a match, or nothing."""
    if rule.family not in context.target.families:
        kind = f"{rule.family} kernels" if rule.family else "kernel for such a decomposition"
        return f"target `{context.target.name}` has no {kind}"
    if any(value is not None and len(graph.type(value).shape) != 1 for value in _weights_of(rule, match)):
        return "a weight differs from row to row"
    if rule.family in ("norm", "pointwise", "row") and _is_mixed(rule, graph, match, known.once):
        return "one of its operands stands for all sequences"
    if rule.family == "norm":
        return _norm_obstacle(rule, graph, match, context.target.max_row)
    if rule.family == "row":
        return _row_obstacle(rule, graph, match)
    if rule.family == "pointwise":
        return _pointwise_obstacle(rule, graph, match)
    if rule.family == "attention":
        return _attention_obstacle(rule, graph, match, known.positions)
    if rule.family == "position_scale":
        return _position_scale_obstacle(rule, graph, match, known.whole)
    if rule.family == "latent_rope":
        return _rope_obstacle(graph, match) or _heads_obstacle(rule, graph, match, context.target.max_row)
    if rule.family == "rope":
        return _rope_obstacle(graph, match) if "eps" in rule.attributes else _widths_obstacle(graph, match)
    return ""


def _weights_of(rule: Rule, match: Match) -> list[Value | None]:
    return [match.operands.get(name) for name in rule.weights]


def _is_mixed(rule: Rule, graph: Graph, match: Match, once: set[tuple[int, Value]]) -> bool:
    """Whether some operands have a row for each token of all sequences, and some for each of a single one."""
    values = [match.operands.get(name) for name in rule.operands]
    rows = [value for value in values if value is not None and len(graph.type(value).shape) > 1]
    return mixes_sequences(graph, rows, once)


def _norm_obstacle(rule: Rule, graph: Graph, match: Match, longest: int) -> str:
    """What a norm and the sums before it read must be rows of one shape that a kernel holds."""
    norm = next(
        graph.node(number) for number in match.nodes.values() if graph.node(number).op.has(Trait.NORM)
    )
    width = norm.types[0].width
    if not isinstance(width, int) or width > longest:
        return f"rows of {width} are longer than a kernel holds ({longest})"
    operands = [match.operands.get(name) for name in rule.operands]
    shapes = {graph.type(value).shape for value in operands if value is not None}
    return "" if shapes == {norm.types[0].shape} else "its operands differ in shape"


def _row_obstacle(rule: Rule, graph: Graph, match: Match) -> str:
    """Operands must be rows of one width that a program holds, or broadcast to them."""
    if name := clashing_name((*rule.operands, *rule.weights, *rule.output_names)):
        return f"its kernel needs the name `{name}` for something else"
    types = {name: graph.type(value) for name, value in match.operands.items() if value is not None}
    form = row_form(rule.decompose(types, match.attributes))
    if form is None:
        return "it is not made of rows of one width, and of what is broadcast to them"
    return "" if fits_row(form) else "its rows are more than a kernel holds"


def _rope_obstacle(graph: Graph, match: Match) -> str:
    """What kernels hold as its two halves must be rotated whole."""
    table = match.operands["cos"]
    width = graph.type(table).width if table is not None else None
    partial = not isinstance(width, int) or _rotated_widths(graph, match) != {2 * width}
    return "heads are rotated in part only" if partial else ""


def _widths_obstacle(graph: Graph, match: Match) -> str:
    """Kernels rotate heads of one width."""
    widths = _rotated_widths(graph, match)
    return "the heads that it rotates are not of one width" if len(widths) > 1 else ""


def _rotated_widths(graph: Graph, match: Match) -> set[Dim]:
    nodes = [graph.node(number) for number in match.nodes.values()]
    return {node.types[0].width for node in nodes if node.op.name == "rotate_by"}


def _heads_obstacle(rule: Rule, graph: Graph, match: Match, most: int) -> str:
    """All heads of a token must fit in a program's registers."""
    joined = (graph.node(match.nodes[output.step]).types[0] for output in rule.outputs)
    values = sum(type_.bind(defaultdict(lambda: 1)).numel() for type_ in joined)
    return f"a token's {values} values are more than a kernel holds ({most})" if values > most else ""


def _pointwise_obstacle(rule: Rule, graph: Graph, match: Match) -> str:
    """Operands must be whole tensors of one shape, or vectors along their last dim."""
    types = {name: graph.type(value) for name, value in match.operands.items() if value is not None}
    shapes = set()
    for name, type_ in types.items():
        if not isinstance(type_.width, int):
            return f"the width of `{name}` is not known"
        if len(type_.shape) > 1:
            shapes.add((*type_.shape[:-1], type_.width // rule.parts.get(name, 1)))
    return "its operands differ in shape" if len(shapes) != 1 else ""


def _position_scale_obstacle(rule: Rule, graph: Graph, match: Match, whole: set[tuple[int, Value]]) -> str:
    """What tokens are multiplied by must be one number for each, which has no gradient."""
    assert rule.scale_form is not None
    x, factor = (match.operands[name] for name in (rule.scale_form.x, rule.scale_form.factor))
    if x is None or factor is None or (id(graph), factor) not in whole:
        return "what it multiplies by does not follow from positions alone"
    shape = graph.type(x).shape
    one_each = graph.type(factor).shape == (*shape[:2], *(1 for _ in shape[2:]))
    return "" if one_each else "what it multiplies by is not one number for each token"


def _attention_obstacle(rule: Rule, graph: Graph, match: Match, positions: Places) -> str:
    """Kernels are given where the tokens of a call stand, and take nothing else for it."""
    if rule.attention_form is not None and rule.attention_form.values_in_keys:
        queries = match.operands[rule.attention_form.queries[0]]
        values = graph.node(match.nodes[rule.root]).types[0]
        if queries is None or graph.type(queries).width != values.width:
            return "its queries and its keys lie in other parts"
    owners = set()
    for name in (POSITIONS, KEY_POSITIONS):
        value = match.operands.get(name)
        known = None if value is None else positions.get((id(graph), value))
        if known is None or known[1] != name:
            return f"its {name} are not those of the tokens"
        owners.add(known[0])
    crossing = len(owners) > 1 and match.attributes["mask"].causal
    return "its mask compares positions in two sequences" if crossing else ""


def _replace(rule: Rule, graph: Graph, match: Match) -> Node:
    root = graph.node(match.nodes[rule.root])
    operands = [match.operands.get(name) for name in (*rule.operands, *rule.weights)]
    exported = [Value(match.nodes[output.step], output.output) for output in rule.outputs]
    names = tuple(graph.name_of(value) for value in exported)
    attributes = {name: match.attributes[name] for name in rule.attributes}
    fused = graph.add_like(root, rule.op, operands, attributes, names=names)
    for old, new in zip(exported, fused.outputs, strict=True):
        graph.replace_uses(old, new)
    for step in sorted(match.nodes, reverse=True):  # a step reads only those before it
        graph.remove(graph.node(match.nodes[step]))
    return fused


def _rounds_inside(rule: Rule) -> bool:
    """Whether the decomposition rounds to the model's dtype where the kernel stays in float32."""
    return rule.family not in ("attention", "position_scale") and (
        sum(not step.op.has(Trait.VIEW) for step in rule.steps) > 1 or "cast" in rule.attributes
    )


def _report_missed(graph: Graph, attempts: dict[int, list[_Attempt]], context: Context) -> None:
    """Of every node left alone, or fused with nothing else, tell the nearest fusion that it missed.

    One that has a kernel of its own has missed a larger fusion only if more of it was there than this node.
    """
    for number, tried in attempts.items():
        if number not in graph:
            continue
        node = graph.node(number)
        rule = rule_of(node)
        size = len(rule.steps) if rule else 0
        missed = [attempt for attempt in tried if len(attempt.rule.steps) > size and _is_telling(attempt)]
        missed.sort(key=lambda attempt: (len(attempt.rule.steps), -attempt.depth))
        told = [Missed(each.rule.name, place_of(node), each.reason, node.span) for each in missed]
        context.report.attempts += told
        if size <= 1:
            context.report.missed += [
                miss for miss, each in zip(told, missed, strict=True) if each.depth > size
            ][:1]


def _is_telling(attempt: _Attempt) -> bool:
    """Whether more of the rule was there than a bare sum, product or concatenation."""
    root = attempt.rule.steps[attempt.rule.root].op
    return attempt.depth > (1 if root.has(Trait.COMMUTATIVE) or root.variadic else 0)
