"""The parameters of a model: how many, what for, and in which layers.

Which role a weight plays follows from the graph alone: from the op that reads it, and from the branch of the
residual stream that the op lies in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from archc.analysis.branches import ATTENTION, OTHER, ROUTED, Branch, branches
from archc.ir.graph import Graph
from archc.ir.head import last_linear
from archc.ir.node import Node, Value, stored_in
from archc.ir.op import Trait
from archc.ir.ops.structure import EXPERTS, LOOP
from archc.ir.paths import Path
from archc.ir.weights import experts_of

EMBEDDING, HEAD, NORM = "embedding", "head", "norm"


@dataclass(frozen=True)
class Layer:
    """Equal layers of a model.

    kind:       what its branches are, in program order
    count:      how many of them there are
    parameters: of one of them
    active:     of one of them, those that take part in a token's way through it
    """

    kind: str
    count: int
    parameters: int
    active: int


@dataclass(frozen=True)
class Parameters:
    """Counts of a model's parameters, each shared one once; what training leaves alone is none of them.

    total:         all
    active:        those that take part in a token's way through the model, tables that it looks up included
    embedding:     those of tables that are looked up in, tied ones included
    head:          those of the last linear map, where it is not tied to a table
    non_embedding: all but the two above: the N of Kaplan et al. 2020 and of most tables of model sizes
    by_role:       all, by what they do
    layers:        those in layers, by the kind of layer
    """

    total: int
    active: int
    embedding: int
    head: int
    non_embedding: int
    by_role: Mapping[str, int]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Counted:
    """A weight node with its role; it exists `times` times, once for each run of the loop body it lies in.

    size:   its elements, of all experts if it is a weight of experts
    active: those of them that a token meets
    """

    weight: Node
    body: Graph
    times: int
    role: str
    size: int
    active: int


def count_parameters(graph: Graph) -> Parameters:
    """The parameters of a graph as the spec says it: before linears are packed."""
    counted = [each for each in weights_of(graph) if each.weight.attributes["trained"]]
    by_role: dict[str, int] = {}
    for each in counted:
        by_role[each.role] = by_role.get(each.role, 0) + each.times * each.size
    total = sum(by_role.values())
    embedding, head = by_role.get(EMBEDDING, 0), by_role.get(HEAD, 0)
    return Parameters(
        total=total,
        active=sum(each.times * each.active for each in counted),
        embedding=embedding,
        head=head,
        non_embedding=total - embedding - head,
        by_role=dict(sorted(by_role.items(), key=lambda item: -item[1])),
        layers=tuple(layer for layer, _ in _layers(graph, counted)),
    )


def weights_of(graph: Graph) -> Iterator[Counted]:
    """Each weight node of a model with its role."""
    roles = _roles(graph)
    for body, times in _loop_runs(graph):
        for weight in body.weights():
            size = weight.types[0].numel()
            role = roles.get((id(body), weight.id), OTHER)
            yield Counted(weight, body, times, role, size, _active(body, weight, size))
        for node in body.experts():
            count, choices = node.attributes["count"], body.choices(node)
            for weight in node.bodies[0].weights():
                size = weight.types[0].numel()
                yield Counted(weight, body, times, ROUTED, count * size, choices * size)


def _active(graph: Graph, weight: Node, size: int) -> int:
    """The elements of a weight that a token meets: of experts at most as many as it chooses in all runs."""
    experts = experts_of(weight)
    if experts is None or not (choices := _choices_among(graph, weight.outputs[0])):
        return size
    _, count = experts
    return size * min(choices, count) // count


def _choices_among(graph: Graph, weights: Value) -> int:
    """How many experts a token chooses of those with these weights, in all places that read them."""
    choices = 0
    for user, place in graph.users(weights):
        if user.op is EXPERTS:
            choices += graph.choices(user)
        elif user.op is LOOP:
            inner = [_choices_among(body, body.inputs[place]) for body in user.bodies]
            choices += sum(inner[number] for number in user.attributes["schedule"])
    return choices


def _loop_runs(graph: Graph, times: int = 1) -> Iterator[tuple[Graph, int]]:
    """The graph and the loop bodies in it, without those of experts."""
    yield graph, times
    for loop in graph.loops():
        for number, body in enumerate(loop.bodies):
            yield from _loop_runs(body, times * loop.attributes["schedule"].count(number))


def roles_by_path(graph: Graph) -> dict[Path, str]:
    """The role of each tensor of a checkpoint, loop variables left open."""
    return {stored.path: each.role for each in weights_of(graph) for stored in stored_in(each.weight)}


def layers_of(graph: Graph) -> list[tuple[Layer, Graph]]:
    """The different layers of a model, with their graphs."""
    return list(_layers(graph, list(weights_of(graph))))


def _layers(root: Graph, counted: list[Counted]) -> Iterator[tuple[Layer, Graph]]:
    bodies = [each for each in _bodies(root) if each[0].weights() or each[0].experts()]
    labels = [_label(body, entering) for body, _, entering in bodies]
    for (body, times, _), label in zip(bodies, labels, strict=True):
        rivals = [other for (other, _, _), its in zip(bodies, labels, strict=True) if its == label]
        own = [each for each in counted if each.body is body]
        kind = label + _distinction(body, rivals)
        parameters = sum(each.size for each in own)
        yield Layer(kind, times, parameters, sum(each.active for each in own)), body


def _bodies(root: Graph) -> Iterator[tuple[Graph, int, list[Value]]]:
    """The loop bodies of a model, with how often each runs and what enters it."""
    for graph, times in _loop_runs(root):
        for loop in graph.loops():
            for number, body in enumerate(loop.bodies):
                runs = times * loop.attributes["schedule"].count(number)
                yield body, runs, body.inputs[: len(loop.attributes["entering"])]


def _label(body: Graph, entering: list[Value]) -> str:
    kinds = [branch.label for branch in branches(body, entering) if branch.kind != OTHER]
    return " + ".join(kinds) or OTHER


def _distinction(body: Graph, rivals: list[Graph]) -> str:
    """The ops that only this one of several layers with the same branches has."""
    others = {node.op.name for rival in rivals if rival is not body for node in rival.nodes()}
    own = dict.fromkeys(node.op.name for node in body.nodes() if node.op.name not in others)
    return f" with {', '.join(own)}" if own and len(rivals) > 1 else ""


_Place = tuple[int, int]  # the `id` of a graph, the number of a weight in it


def _roles(root: Graph) -> dict[_Place, str]:
    """The role of each weight; one with several, such as a tied table, has the first of them."""
    found: dict[_Place, str] = {}
    heads = {id(linear) for _, value in root.outputs if (linear := last_linear(root, value)) is not None}

    def visit(graph: Graph, entering: list[Value], outer: Mapping[Value, _Place]) -> None:
        places = {**outer, **{w.outputs[0]: (id(graph), w.id) for w in graph.weights()}}
        parts = branches(graph, entering)
        for node in graph.nodes():
            if node.op is LOOP:
                start = len(node.attributes["entering"])
                for body in node.bodies:
                    pairs = list(zip(body.inputs, node.inputs, strict=True))
                    inner = {into: places[value] for into, value in pairs if value in places}
                    visit(body, body.inputs[:start], inner)
                continue
            for value in node.inputs:
                if value in places:
                    found.setdefault(places[value], HEAD if id(node) in heads else _role(graph, node, parts))

    visit(root, root.inputs, {})
    return found


def _role(graph: Graph, reader: Node, parts: list[Branch]) -> str:
    if reader.op.name == "embedding":
        return EMBEDDING
    if reader.op.has(Trait.NORM):
        return NORM
    if any(user.op.has(Trait.PAIRWISE) for value in reader.outputs for user, _ in graph.users(value)):
        return ATTENTION
    return next((branch.role(reader.id) for branch in parts if reader.id in branch.nodes), OTHER)
