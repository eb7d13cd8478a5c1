"""The residual stream of a model, and the branches that leave it and come back.

Nothing here reads a name.  The stream is what enters a layer and what sums, norms and elementwise ops make of
it before a linear map; take it out of a graph and what still hangs together is one branch: attention with its
projections, an MLP with its gate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.structure import CONSTANT, EXPERTS, INPUT, LOOP, SCAN, WEIGHT

ATTENTION, MIXER, MLP, ROUTED, OTHER = "attention", "mixer", "mlp", "experts", "other"
ROUTER = "router"


@dataclass(frozen=True)
class Branch:
    """Nodes of one graph that hang together without the stream.

    kind:   `attention` has masks, `experts` are those that tokens choose, `mixer` looks at other tokens in
            another way, `mlp` is linear maps with something between them, `other` all else
    detail: what its attention sees, such as `sliding(4096)`, how many of its experts a token chooses, or that
            a mixer is recurrent
    router: the nodes that the choice of experts is made by
    routed: the other nodes that experts read
    """

    nodes: frozenset[int]
    kind: str
    detail: str = ""
    router: frozenset[int] = frozenset()
    routed: frozenset[int] = frozenset()

    def role(self, node: int) -> str:
        """What a node is for; beside experts that are chosen may stand some that all tokens take."""
        if self.kind != ROUTED:
            return self.kind
        return ROUTER if node in self.router else ROUTED if node in self.routed else MLP

    @property
    def label(self) -> str:
        return f"{self.detail} {self.kind}".lstrip()


def branches(graph: Graph, entering: Sequence[Value]) -> list[Branch]:
    """The branches of a model's graph or of a loop body in program order; `entering` are inputs that vary."""
    stream = _stream(graph, entering)
    made = _made_of_tensors(graph)
    inside = [node for node in graph.nodes() if node.id in made and node.id not in stream]
    return [_branch(graph, nodes) for nodes in _connected(graph, inside)]


def _stream(graph: Graph, entering: Sequence[Value]) -> set[int]:
    """The nodes whose values are the stream: it starts as what a table gives, or what enters a layer."""
    found = {value.node for value in entering if graph.type(value).dtype.is_floating}
    for node in graph.nodes():
        starts = node.op is LOOP or node.op.name == "embedding"
        if starts or (_keeps(node) and any(v is not None and v.node in found for v in node.inputs)):
            found.add(node.id)
    return found


def _keeps(node: Node) -> bool:
    """Whether a node only changes values at their places: a sum, a norm, a scale."""
    kept = node.op.has(Trait.ELEMENTWISE) or node.op.has(Trait.NORM)
    return kept and len(node.types) == 1


def _made_of_tensors(graph: Graph) -> set[int]:
    """Nodes that depend on floating-point inputs or on weights: not tables of positions, nor masks."""
    found: set[int] = set()
    for node in graph.nodes():
        if node.op in (INPUT, WEIGHT, CONSTANT):
            continue
        if any(v is not None and (v.node in found or _is_given(graph, v)) for v in node.inputs):
            found.add(node.id)
    return found


def _is_given(graph: Graph, value: Value) -> bool:
    return graph.node(value).op in (INPUT, WEIGHT) and graph.type(value).dtype.is_floating


def _connected(graph: Graph, nodes: list[Node]) -> Iterator[list[Node]]:
    """Groups of nodes that read one another, in the order of their first nodes."""
    inside = {node.id: node for node in nodes}
    seen: set[int] = set()
    for node in nodes:
        group, waiting = [], [node.id]
        while waiting:
            number = waiting.pop()
            if number in seen or number not in inside:
                continue
            seen.add(number)
            each = inside[number]
            group.append(each)
            waiting += [value.node for value in each.operands]
            waiting += [user.id for value in each.outputs for user, _ in graph.users(value)]
        if group:
            yield sorted(group, key=lambda each: (each.order, each.id))


def _branch(graph: Graph, nodes: list[Node]) -> Branch:
    numbers = frozenset(node.id for node in nodes)
    if masks := [str(node.attributes["mask"]) for node in nodes if "mask" in node.attributes]:
        return Branch(numbers, ATTENTION, ", ".join(dict.fromkeys(masks)))
    if experts := [node for node in nodes if node.op is EXPERTS]:
        return _routed(graph, numbers, experts)
    if any(node.op.carries or node.op is SCAN for node in nodes):
        return Branch(numbers, MIXER, "recurrent")
    if any(node.op.past or not (node.op.internal or node.op.has(Trait.PER_TOKEN)) for node in nodes):
        return Branch(numbers, MIXER)
    linears = sum(node.op.has(Trait.LINEAR) for node in nodes)
    return Branch(numbers, MLP if linears > 1 else OTHER)


def _routed(graph: Graph, numbers: frozenset[int], experts: list[Node]) -> Branch:
    chosen = {node.first.node for node in experts}
    router = chosen.union(*(graph.needed_by(number) for number in chosen))
    routed = {node.id for node in experts}.union(*(graph.needed_by(node.id) for node in experts)) - router
    details = (f"{graph.choices(node)} of {node.attributes['count']}" for node in experts)
    return Branch(numbers, ROUTED, ", ".join(dict.fromkeys(details)), frozenset(router), frozenset(routed))
