"""A graph's weights -> the parameters of its class, with their names in the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from archc.codegen.literals import size_code
from archc.codegen.modules.class_plan import Parameter, PerExpert, Stored
from archc.codegen.modules.start_values import start_code
from archc.codegen.names import identifier
from archc.ir.graph import Graph
from archc.ir.node import Node, shared_in, stored_in
from archc.ir.ops.structure import EXPERTS, WEIGHT
from archc.ir.paths import Index, Path
from archc.ir.paths import Stored as IrStored
from archc.ir.types import DType
from archc.ir.weights import experts_of, is_per_expert


@dataclass(frozen=True)
class Held:
    """A weight that a class holds; one of the body of `experts` is held for all of them."""

    weight: Node
    experts: tuple[str, int] | None  # the variable that counts them, and how many there are
    region: int | None = None  # the number of the `experts` node, where the weight is in its body


def held_weights(graph: Graph) -> list[Held]:
    """The weights of a graph and of the experts in it, in program order."""
    held: list[Held] = []
    for node in graph.nodes():
        if node.op is WEIGHT:
            held.append(Held(node, experts_of(node)))
        elif node.op is EXPERTS:
            experts = node.attributes["variable"], node.attributes["count"]
            held += [Held(weight, experts, node.id) for weight in node.bodies[0].weights()]
    return held


def weight_texts(weights: Sequence[Held], names: Sequence[str]) -> dict[int, str]:
    """The texts of a graph's own weights, by their nodes' numbers."""
    own = [(held, name) for held, name in zip(weights, names, strict=True) if held.region is None]
    return {held.weight.id: f"self.{name}" for held, name in own}


def expert_texts(weights: Sequence[Held], names: Sequence[str]) -> dict[int, dict[int, str]]:
    """The texts of the weights in bodies of experts, by the numbers of both."""
    texts: dict[int, dict[int, str]] = {}
    for held, name in zip(weights, names, strict=True):
        if held.region is not None and held.experts is not None:
            variable = identifier(held.experts[0])
            texts.setdefault(held.region, {})[held.weight.id] = f"self.{name}[{variable}]"
    return texts


def parameter_of(held: Held, name: str) -> Parameter:
    """A weight as a parameter of its module: its shape, what it is stored as, its start values."""
    sources = stored_in(held.weight)
    shape = held.weight.types[0].shape
    if held.experts is not None and held.region is not None:
        shape = (held.experts[1], *shape)
    code = ", ".join(size_code(dim) for dim in shape)
    comment = " | ".join(_leaf(stored.path) for stored in sources) if len(sources) > 1 else ""
    per_expert = None
    if held.experts is not None and is_per_expert(held.weight, held.experts[0]):
        per_expert = PerExpert(identifier(held.experts[0]), size_code(held.experts[1]))
    stored = tuple(_stored(source, per_expert) for source in sources)
    dtype, trained = held.weight.types[0].dtype, held.weight.attributes["trained"]
    wide, whole = dtype is DType.F32, dtype is DType.I64
    start, shared = start_code(held.weight.attributes["init"], whole), _shared(held.weight)
    return Parameter(name, code, start, stored, comment, trained, per_expert, wide, shared, whole)


def _shared(weight: Node) -> tuple[Stored, ...]:
    """The tensors of the experts that every token goes through, which may be planes of one."""
    shared = shared_in(weight)
    if shared is None:
        return ()
    first, end = size_code(shared.first), size_code(shared.first + shared.count)
    place = f"slice({first}, {end})" if shared.count > 1 else first
    return tuple(replace(_stored(source, None), expert=place) for source in shared.sources)


def _leaf(path: Path) -> str:
    return str([segment for segment in path if segment not in ("weight", "bias")][-1])


def _stored(stored: IrStored, per_expert: PerExpert | None) -> Stored:
    rows = stored.held_shape[0]
    name = path_code(stored.path, (per_expert.variable,) if per_expert else ())
    heads = size_code(stored.heads) if stored.heads else ""
    parts = tuple(map(size_code, stored.parts))
    return Stored(name, size_code(rows), stored.transposed, stored.planes > 0, stored.joined, heads, parts)


def path_code(path: Path, local: Sequence[str] = ()) -> str:
    """A checkpoint name as a string literal, or as an f-string over the loop variables.

    These are attributes of the module, but for those that are `local`.
    """
    parts: list[str] = []
    for segment in path:
        if isinstance(segment, Index):
            scale = f"{segment.scale} * " if segment.scale != 1 else ""
            offset = f" + {segment.offset}" if segment.offset else ""
            variable = identifier(segment.variable)
            owner = "" if variable in local else "self."
            parts.append(f"{segment.prefix}{{{scale}{owner}{variable}{offset}}}")
        else:
            parts.append(segment)
    text = ".".join(parts)
    return f'f"{text}"' if any(isinstance(segment, Index) for segment in path) else f'"{text}"'
