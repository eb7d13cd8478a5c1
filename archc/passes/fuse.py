"""Applies the fusion rules, larger ones first."""

from __future__ import annotations

from dataclasses import dataclass

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.rule import Rule, rule_of
from archc.passes.context import Context, place_of
from archc.passes.matcher import Match, Matcher
from archc.passes.obstacles import Known, obstacle_to
from archc.passes.report import Fired, Missed


@dataclass(frozen=True)
class _Attempt:
    """A rule that did not match at a node, how far it came, and why it went no further."""

    rule: Rule
    depth: int
    reason: str


def fuse(graph: Graph, context: Context) -> None:
    """Replace every decomposition that the target has a kernel for by the fused op."""
    rules = sorted(context.rules, key=lambda rule: -len(rule.steps))
    known = Known.of(graph)
    for part, times in graph.runs():
        attempts: dict[int, list[_Attempt]] = {}
        there = {node.op for node in part.nodes()}
        for rule in rules:
            if rule.steps[rule.root].op in there:
                _apply_everywhere(rule, part, times, context, attempts, known)
        _report_missed(part, attempts, context)
    context.report.sort()


def _apply_everywhere(
    rule: Rule,
    graph: Graph,
    times: int,
    context: Context,
    attempts: dict[int, list[_Attempt]],
    known: Known,
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
        obstacle = obstacle_to(rule, graph, match, context.target, known)
        if obstacle:
            attempts.setdefault(node.id, []).append(_Attempt(rule, len(rule.steps), obstacle))
            continue
        fused = _replace(rule, graph, match, known)
        attempts[fused.id] = attempts.pop(node.id, [])
        relaxations = ("fewer_roundings",) if _rounds_inside(rule) else ()
        context.report.fired.append(Fired(rule.name, place_of(node), times, relaxations, node.span))


def _replace(rule: Rule, graph: Graph, match: Match, known: Known) -> Node:
    root = graph.node(match.nodes[rule.root])
    operands = [match.operands.get(name) for name in rule.inputs]
    exported = [Value(match.nodes[output.step], output.output) for output in rule.outputs]
    names = tuple(graph.name_of(value) for value in exported)
    attributes = {name: match.attributes[name] for name in rule.attributes}
    fused = graph.add_like(root, rule.op, operands, attributes, names=names)
    for old, new in zip(exported, fused.outputs, strict=True):
        graph.replace_uses(old, new)
        known.replace(graph, old, new)
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
