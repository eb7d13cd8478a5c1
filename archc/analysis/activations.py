"""What training keeps of a forward pass: values that ops say their gradients need, each tensor once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from archc.analysis.kernels import Shape, base_of, growing_dim, type_bytes
from archc.ir.expr import leaf, leaves
from archc.ir.first_layer import may_be_none
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Op, Trait
from archc.ir.ops.structure import APPEND, CONSTANT, INPUT, KEEP, WEIGHT
from archc.ir.rule import Rule, as_value, decomposition, rule_of
from archc.ir.scan_form import scan_form


@dataclass(frozen=True)
class Activations:
    """Bytes kept between forward and backward pass.

    all:        everything that the gradients need
    recomputed: what enters each layer, and everything of one layer at a time (Chen et al. 2016)
    """

    all: int
    recomputed: int


def activations(root: Graph, shape: Shape, element: int) -> Activations:
    """The activations of a fused graph; `element` is the size of the model's dtype in bytes."""
    root = _taken_apart(root)
    grows = growing_dim(root)

    def size(graph: Graph, values: Iterable[Value]) -> int:
        sizes = shape.sizes(graph, grows=grows)
        return sum(type_bytes(graph.type(value).bind(sizes), element) for value in values)

    kept: dict[int, set[Value]] = {}
    counted = [value for value in root.inputs if not root.type(value).dtype.is_floating]
    _collect(root, set(root.inputs), kept, counted)
    outside = size(root, kept[id(root)])
    inside = [(times, size(body, kept[id(body)])) for body, times in root.runs(new=inf) if body is not root]
    entering = sum(
        times * len(loop.attributes["schedule"]) * size(graph, _entering(graph, loop))
        for graph, times in root.runs(new=inf)
        for loop in graph.loops()
    )
    absent = sum(
        times * size(body, kept[id(body)] & none)
        for graph, times in root.runs(new=inf)
        for body, none in _none_at_first(graph)
    )
    leaving = sum(times * size(graph, _leaving(graph, kept)) for graph, times in root.runs(new=inf))
    return Activations(
        all=outside + sum(times * held for times, held in inside) - absent - leaving,
        recomputed=outside + entering + max((held for _, held in inside), default=0),
    )


def _taken_apart(root: Graph) -> Graph:
    """A copy in which routers, and products of experts with activations, are the ops that they join.

    The gradient of a router is that of these; of a product what the activation reads is kept.
    """
    apart = root.copy()
    for graph in apart.walk():
        for node in graph.nodes():
            rule = rule_of(node)
            if rule is not None and rule.family in ("router", "experts"):
                _take_apart(graph, graph.node(node.id), rule)  # what it reads may have been taken apart
    return apart


def _take_apart(graph: Graph, node: Node, rule: Rule) -> None:
    def apply(op: Op, values: list[Any], attributes: dict[str, Any]) -> Sequence[Value]:
        return graph.add_like(node, op, [as_value(graph, value) for value in values], attributes).outputs

    outputs = rule.run(dict(zip(rule.operands, node.inputs, strict=True)), node.attributes, apply)
    for old, new in zip(node.outputs, outputs, strict=True):
        graph.replace_uses(old, new)
    graph.remove(node)


def _none_at_first(graph: Graph) -> Iterator[tuple[Graph, set[Value]]]:
    """The first body of each loop, and what enters it as zeros that are not there at all."""
    for loop in graph.loops():
        if loop.attributes["schedule"]:
            body = loop.bodies[loop.attributes["schedule"][0]]
            pairs = zip(body.inputs, loop.inputs, strict=True)
            yield body, {inner for inner, outer in pairs if outer and may_be_none(graph, graph.node(outer))}


def _leaving(graph: Graph, kept: Mapping[int, set[Value]]) -> set[Value]:
    """What is kept as a loop's result and was kept in its last layer already."""
    return {
        result
        for loop in graph.loops()
        if loop.attributes["schedule"]
        for body in [loop.bodies[loop.attributes["schedule"][-1]]]
        for (_, value), result in zip(body.outputs, loop.outputs, strict=True)
        if result in kept[id(graph)] and _base(body, value) in kept[id(body)]
    }


def _entering(graph: Graph, loop: Node) -> list[Value]:
    """What each layer is given anew; what is the same for all tokens are weights of the layer before."""
    given = loop.operands[: len(loop.attributes["entering"])]
    return [v for v in given if any(isinstance(dim, str) for dim in graph.type(v).shape)]


def _without_gradient(graph: Graph, given: set[Value]) -> set[Value]:
    """Values that follow from no weight, but from numbers and from such inputs."""
    found = set(given)
    for node in graph.nodes():
        named = [value for name, value in node.named.items() if name not in node.op.models]
        read = node.operands if node.op.variadic else named
        if node.op not in (INPUT, WEIGHT) and not node.bodies and found.issuperset(read):
            found.update(node.outputs)
    return found


def _collect(
    graph: Graph, captured: set[Value], found: dict[int, set[Value]], given: Iterable[Value] = ()
) -> set[Value]:
    """Enter the values that gradients need into `found`, by graph; those captured from outside are returned.

    A view counts as what it is a view of; parameters and numbers are there anyway.  The inputs that are
    `given` have no gradient.
    """
    fixed_values = _without_gradient(graph, set(given))
    kept = {_base(graph, value) for node in graph.nodes() for value in _kept_by(graph, node, fixed_values)}
    for loop in graph.loops():
        for body in loop.bodies:
            outer = dict(zip(body.inputs, loop.inputs, strict=True))
            fixed = body.inputs[len(loop.attributes["entering"]) :]
            same = [value for value in fixed if outer[value] in fixed_values]
            through = (outer[value] for value in _collect(body, set(fixed), found, same))
            kept |= {_base(graph, value) for value in through if value is not None}
            found[id(body)] -= _twice(loop, body, found[id(body)])
    for branch in graph.branches():
        kept |= {_base(graph, value) for value in _of_branch(branch, found)}
    for node in graph.experts():
        kept |= {_base(graph, value) for value in _of_experts(node, found)}
    for scan in graph.scans():
        kept |= {_base(graph, value) for value in _of_scan(scan, found)}
    kept = {value for value in kept if graph.node(value).op not in (WEIGHT, CONSTANT)}
    found[id(graph)] = kept - captured
    return kept & captured


def _of_branch(branch: Node, found: dict[int, set[Value]]) -> Iterator[Value]:
    """What the way for many tokens keeps of values outside of it, its results being some of them."""
    body = branch.bodies[0]
    outer = dict(zip(body.inputs, branch.inputs, strict=True))
    through = _collect(body, set(body.inputs), found)
    yield from (value for inner in through if (value := outer[inner]) is not None)
    for (_, result), value in zip(body.outputs, branch.outputs, strict=True):
        if result in found[id(body)]:
            found[id(body)].remove(result)
            yield value


def _of_experts(experts: Node, found: dict[int, set[Value]]) -> Iterator[Value]:
    """What experts that run one by one keep of what they read whole; their rows are copies of their own."""
    (body,), (_, *taken) = experts.bodies, experts.inputs
    given = zip(body.inputs, taken, experts.attributes["taken"], strict=True)
    outer = {inner: value for inner, value, kind in given if kind in ("whole", "expert") and value}
    yield from (outer[inner] for inner in _collect(body, set(outer), found))


def _of_scan(scan: Node, found: dict[int, set[Value]]) -> Iterator[Value]:
    """What steps keep of values outside of them; a state is kept once, not also by the step that reads it."""
    (body,), taken = scan.bodies, scan_form(scan).taken
    states = body.inputs[: len(body.inputs) - len(taken)]
    outer = dict(zip(body.inputs[len(states) :], taken, strict=True))
    yield from (outer[inner] for inner in _collect(body, set(outer), found))
    after = zip(states, body.outputs[1:], strict=True)
    kept = found[id(body)]
    kept -= {state for state, (_, value) in after if _base(body, value) in kept}


def _twice(loop: Node, body: Graph, kept: set[Value]) -> set[Value]:
    """What enters a layer and was kept as a result of the layer before."""
    left = dict(zip(loop.attributes["carried"], (value for _, value in body.outputs), strict=True))
    names = zip(loop.attributes["entering"], body.inputs, strict=False)
    return {value for name, value in names if name in left and _base(body, left[name]) in kept}


def _base(graph: Graph, value: Value) -> Value:
    """The tensor that a value lies in; there is no cache in training."""
    return base_of(graph, value, (APPEND, KEEP))


def _kept_by(graph: Graph, node: Node, fixed: set[Value]) -> set[Value]:
    """What the gradients of an op need, where `fixed` values have none."""
    if rule_of(node) is None:
        return set(_saved(node) if node.op.saves else _needed(node, fixed))
    steps = decomposition(graph, node)
    outputs = {value: node.outputs[place] for place, (_, value) in enumerate(steps.outputs)}
    found: set[Value] = set()
    numbers = _without_gradient(steps, set())
    waiting = [value for step in steps.nodes() for value in _needed(step, numbers)]
    while waiting:  # what is needed of the middle of a kernel is computed again from what goes in
        value = _base(steps, waiting.pop())
        if value in outputs:
            found.add(outputs[value])
        elif value in steps.inputs:
            found.add(node.named[steps.name_of(value)])
        else:
            waiting += steps.node(value).operands
    return found


def _needed(node: Node, fixed: set[Value]) -> list[Value]:
    """The operands and results that the gradients of an op read, where `fixed` operands have none."""
    op = node.op
    if op.has(Trait.VIEW):
        return []
    if op.derivative is not None:
        names = [operand.name for operand in op.operands]
        read: set[str] = set()
        for place, formula in op.gradients(leaf(""), list(map(leaf, names))):
            value = node.inputs[place]
            if value is not None and value not in fixed:
                read |= leaves(formula)
        return [value for name, value in node.named.items() if name in read]
    return _saved(node)


def _saved(node: Node) -> list[Value]:
    """What an op says that its gradient reads."""
    known = {"result": node.outputs[0], **node.named} if node.outputs else node.named
    return [known[name] for name in node.op.saves if name in known]
