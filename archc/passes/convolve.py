"""Causal convolutions and shifts get a kernel, which computes the elementwise ops after them as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from archc.ir.convolution_form import LOOKS, RESERVED, offsets
from archc.ir.decomposition import OperandRef, Ref, Step, StepRef
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.structure import CONSTANT
from archc.ir.origins import Origins, mixes_sequences, once_in
from archc.ir.program import KEY_POSITIONS, POSITIONS, Places, positions_in
from archc.ir.rule import Rule
from archc.ir.types import DType, TensorType
from archc.passes.context import Context, place_of, remaining
from archc.passes.join import ADD, chain_name, operand_name
from archc.passes.outline import Outline
from archc.passes.report import Fired

_MOST_STEPS = 16  # as many as a fusion of a spec may have
_MOST_OPERANDS = 6  # tensors that a program holds at once, and their gradients
_MOST_TAPS = 32  # whose weights' gradients a program holds


def join_convolutions(graph: Graph, context: Context) -> None:
    """Compute convolutions and shifts over tokens, and the elementwise ops after each, in one kernel."""
    if "convolution" not in context.target.families:
        return
    places, once = positions_in(graph), once_in(graph)
    for part, times in graph.runs():
        for node in remaining(part, *LOOKS):
            if _has_kernel(part, node, places):
                _join(part, node, once, times, context)
    context.report.sort()


def _has_kernel(graph: Graph, look: Node, places: Places) -> bool:
    """Whether it reads rows of numbers, at the tokens' own positions."""
    (result,) = look.types
    known = all(isinstance(dim, int) for dim in result.shape[2:])
    rows = result.dtype is DType.FLOAT and len(result.shape) > 2 and known
    read = [places.get((id(graph), value)) for value in look.given((POSITIONS, KEY_POSITIONS))]
    own = None not in read and len({place[0] for place in read if place}) == 1
    return rows and own and len(offsets(look.op, look.attributes)) <= _MOST_TAPS


def _join(graph: Graph, look: Node, once: Origins, times: int, context: Context) -> None:
    others = _after(graph, look, once)
    last = others[-1] if others else look
    name = chain_name([look, *others]) if others else look.op.name
    rule, read = _fusion(graph, look, others, name)
    own = tuple(map(graph.name_of, last.outputs))
    joined = graph.add_like(last, rule.op, read, names=own)
    graph.replace_uses(last.outputs[0], joined.outputs[0])
    for node in reversed([look, *others]):
        graph.remove(node)
    relaxed = ("fewer_roundings",) if others else ()
    context.report.fired.append(Fired(name, place_of(look), times, relaxed, look.span))


def _after(graph: Graph, look: Node, once: Origins) -> list[Node]:
    """The elementwise ops after a look at earlier tokens that end in one value, in the order of the graph."""
    nodes = [node for node in graph.nodes() if node is not look and _fits(graph, node, look.types[0], once)]
    needed = graph.needed_by(look.id)
    found, best = [look], [look]
    for node in nodes:
        if {value.node for value in node.operands} & {each.id for each in found}:
            found.append(node)
            if graph.left_by(found) == [node.outputs[0]] and _is_small(graph, found):
                best = list(found)
    for node in reversed(nodes):  # what is computed for these alone
        users = {user.id for user, _ in graph.users(node.outputs[0])}
        if node.id not in needed and users and users <= {each.id for each in best}:
            wider = [node, *best]
            if not graph.is_output(node.outputs[0]) and node not in best and _is_small(graph, wider):
                best = wider
    inside = {node.id for node in best} - {look.id}
    return [node for node in graph.nodes() if node.id in inside]


def _is_small(graph: Graph, nodes: Sequence[Node]) -> bool:
    inside = {node.id for node in nodes}
    read = {value for node in nodes[1:] for value in node.operands}
    outer = [value for value in read if value.node not in inside and graph.node(value).op is not CONSTANT]
    return len(nodes) <= _MOST_STEPS and len(outer) <= _MOST_OPERANDS


def _fits(graph: Graph, node: Node, rows: TensorType, once: Origins) -> bool:
    """Whether an op computes such rows, or a vector, element by element.

    A sum that leaves the layer, or that a norm or a further sum reads, is theirs.
    """
    if node.attributes or not node.op.is_pointwise:
        return False
    vector = rows.with_shape(*rows.shape[-1:])
    kinds = (rows, vector)
    types = [graph.type(value) for value in node.operands if graph.node(value).op is not CONSTANT]
    whole = [value for value in node.operands if graph.type(value) == rows]
    if node.types[0] not in kinds or not types or any(type_ not in kinds for type_ in types):
        return False
    if node.op is ADD and len(whole) > 1:
        users = [user for user, _ in graph.users(node.outputs[0])]
        taken = any(user.op is ADD or user.op.has(Trait.NORM) for user in users)
        return not taken and not graph.is_output(node.outputs[0])
    return not mixes_sequences(graph, whole, once)


def _fusion(graph: Graph, look: Node, others: list[Node], name: str) -> tuple[Rule, list[Value]]:
    """The fusion, and what it reads."""
    given = look.named
    inputs = tuple(OperandRef(o.name) if o.name in given else None for o in look.op.operands)
    first = Step(look.op, inputs, dict(look.attributes), ("conv" if look.op.weights else "earlier",))
    outline = Outline(graph, others, "y", operand_name, operands={look.outputs[0]: "conv"})
    after = outline.rule(name, look.written)
    names = _free_names(
        [*after.operands[1:], *(after.output_names or (graph.name_of(look.outputs[0]) or "y",))]
    )
    *operands, result = names.values()
    own = dict(zip(after.operands[1:], operands, strict=True))

    def moved(ref: Ref) -> Ref:
        if isinstance(ref, StepRef):
            return replace(ref, step=ref.step + 1)
        if isinstance(ref, OperandRef):
            return OperandRef(own[ref.name]) if ref.name in own else StepRef(0)
        return ref

    steps = [replace(step, inputs=tuple(map(moved, step.inputs))) for step in after.steps]
    rule = Rule(
        name=name,
        operands=(*given, *operands),
        weights=(),
        attributes=(),
        steps=(first, *steps),
        outputs=(StepRef(len(steps)),),
        output_names=(result,),
        span=look.written,
        text="",
    )
    return rule, [*given.values(), *list(outline.operands)[1:]]


def _free_names(names: Sequence[str]) -> dict[int, str]:
    """Names that are neither a kernel's own nor others' gradients, by their number."""
    found: dict[int, str] = {}
    for number, name in enumerate(names):
        taken = {*RESERVED, *found.values()}
        taken |= {f"d{other}" for other in taken} | {other.removeprefix("d") for other in taken}
        found[number] = unique(name, taken)
    return found
