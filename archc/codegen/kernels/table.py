"""The kernels of a model: fused nodes with equal shapes and attributes share one."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from archc.codegen.kernels.attention.attention_kernel import plan_attention
from archc.codegen.kernels.convolution.convolution_kernel import plan_convolution
from archc.codegen.kernels.experts.dispatched_kernel import activation_of, plan_dispatched
from archc.codegen.kernels.experts.dispatched_plan import DispatchedKernel
from archc.codegen.kernels.experts.router_kernel import plan_router
from archc.codegen.kernels.fused import Fused, describe_fused
from archc.codegen.kernels.kernel_plan import Kernel
from archc.codegen.kernels.key_choice.key_choice_kernel import plan_key_choice
from archc.codegen.kernels.norms.norm_kernel import plan_norm
from archc.codegen.kernels.rope.latent_rope_kernel import plan_latent_rope
from archc.codegen.kernels.rope.position_scale_kernel import plan_position_scale
from archc.codegen.kernels.rope.rope_kernel import plan_rope
from archc.codegen.kernels.rows.pointwise import OF_LINEARS
from archc.codegen.kernels.rows.pointwise_kernel import plan_pointwise
from archc.codegen.kernels.rows.row_kernel import plan_row
from archc.codegen.kernels.unfused_kernels import NAMES
from archc.codegen.modules.kept import PAST, kept_by
from archc.codegen.names import identifier
from archc.codegen.semantics import Semantics
from archc.ir.decomposition import OperandRef
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.records import Record
from archc.ir.rule import Rule, decomposition, fused_by, rule_of
from archc.ir.types import TensorType
from archc.target import Target

_Key = tuple[Any, ...]  # of an op's name, and what else its kernel follows from

# Which planner, and so which template, makes the kernels of a family of rules.
PLANNERS: dict[str, Callable[[Fused, Target], Kernel]] = {
    "norm": lambda fused, _target: plan_norm(fused),
    "rope": lambda fused, _target: plan_rope(fused),
    "latent_rope": lambda fused, _target: plan_latent_rope(fused),
    "pointwise": lambda fused, _target: plan_pointwise(fused),
    "position_scale": lambda fused, _target: plan_position_scale(fused),
    "row": lambda fused, _target: plan_row(fused),
    "router": lambda fused, _target: plan_router(fused),
    "convolution": lambda fused, _target: plan_convolution(fused),
    "attention": plan_attention,
    "key_choice": lambda fused, _target: plan_key_choice(fused),
}

# What a kernels.py calls its own functions, with `_` in front or without, and what else it reads by name.
_TAKEN = NAMES.union(dir(builtins)).union("""
    add_product cache Callable combine differentiable differentiated_once dispatched_linear F grouped_linear
    grouped_outer grouped_sum heads jit LIBRARY like linear_cross_entropy linear_log_probs log1p
    merge_shares native on_device op Op os outer_tile parts Past processors products_of_choices programs
    reference room rows runs_triton shares sort_choices Span sum_of_choices sums sums_of_products tanh Tensor
    tile tile_of_expert tl torch triton weighted_combine
    without_autocast wraps
    """.split())  # noqa: SIM905 - a list of this length is easier to read as words


def fused_nodes(parts: Iterable[Graph]) -> list[tuple[Graph, Node]]:
    """The fused nodes of graphs; the activation in a product of experts comes before it, as its own node."""
    found: list[tuple[Graph, Node]] = []
    for part in parts:
        for node in part.nodes():
            rule = rule_of(node)
            if rule is not None and rule.family == "experts":
                form = decomposition(part, node)
                found.append((form, activation_of(form)))
            if rule is not None:
                found.append((part, node))
    return found


class KernelTable:
    """The kernels of a model, looked up by the nodes that call them."""

    def __init__(self, parts: Sequence[Graph]):
        nodes = fused_nodes(parts)
        branches = [branch for part in parts for branch in part.branches()]
        whole = {id(part) for branch in branches for part in branch.bodies[0].walk()}  # for many tokens alone
        self._in_steps = {_key(graph, node) for graph, node in nodes if id(graph) not in whole}
        self._places: dict[_Key, tuple[Graph, Node]] = {}
        self._optional: set[_Key] = set()
        self._keeping = {_key(graph, node) for graph, node in nodes if kept_by(graph, node)}
        for graph, node in nodes:
            self._places.setdefault(_key(graph, node), (graph, node))
        self._names = {key: self._name(key) for key in self._places}

    def name(self, graph: Graph, node: Node) -> str:
        """The function that computes a fused node."""
        return self._names[_key(graph, node)]

    def allow_none(self, graph: Graph, node: Node) -> None:
        """Let a norm's addends be None, which stands for zeros."""
        self._optional.add(_key(graph, node))

    def decompositions(self) -> list[Graph]:
        """The plain forms of all kernels, as graphs."""
        return [decomposition(graph, node) for graph, node in self._places.values()]

    def plans(self, semantics: Semantics, target: Target) -> tuple[Kernel, ...]:
        """All kernels, in the order in which they are first called."""
        return tuple(self._plan(key, semantics, target, key in self._optional) for key in self._places)

    def plan_of_given(self, graph: Graph, node: Node, semantics: Semantics, target: Target) -> Kernel:
        """The kernel of a fused node alone, none of whose operands is None."""
        return self._plan(_key(graph, node), semantics, target, optional=False)

    def _plan(self, key: _Key, semantics: Semantics, target: Target, optional: bool) -> Kernel:
        graph, node = self._places[key]
        if fused_by(node).family == "experts":
            return self._plan_dispatched(key, graph, node, semantics)
        fused = describe_fused(self._names[key], graph, node, semantics, optional, key in self._keeping)
        suited = target if key in self._in_steps else target.without("steps")
        return PLANNERS[fused.rule.family](fused, suited)

    def _plan_dispatched(self, key: _Key, graph: Graph, node: Node, semantics: Semantics) -> DispatchedKernel:
        form = decomposition(graph, node)
        activation = activation_of(form)
        return plan_dispatched(
            self._names[key],
            node,
            graph.type(node.first),
            describe_fused(self.name(form, activation), form, activation, semantics),
        )

    def _name(self, key: _Key) -> str:
        """The fusion's name; if a model needs several kernels for it, with a suffix that tells them apart."""
        rivals = [other for other in self._places if other[0] == key[0]]
        kinds = [self._kinds(other) for other in rivals]
        own = kinds[rivals.index(key)]
        if own and kinds.count(own) == 1 and len(rivals) > 1:
            return identifier("_".join((key[0], *own)))
        place = rivals.index(key) + 1 + (key[0] in _TAKEN)
        return identifier(key[0] if place == 1 else f"{key[0]}_{place}")

    def _kinds(self, key: _Key) -> tuple[str, ...]:
        _, node = self._places[key]
        return tuple(value.kind for value in node.attributes.values() if isinstance(value, Record))


def _key(graph: Graph, node: Node) -> _Key:
    """Equal for nodes that share a kernel; the number of rows or tokens does not matter."""
    rule = fused_by(node)
    if rule.family == "experts":  # for any experts, whose results are as wide
        form = decomposition(graph, node)
        return node.op.name, _key(form, activation_of(form))
    types = graph.input_types(node)
    shapes = tuple(None if type_ is None else _shape_key(type_, rule.family) for type_ in types)
    bias = node.named.get("bias") if rule.family == "attention" else None
    of_heads = None if bias is None else graph.type(bias).shape[1]  # each its own, or all heads one
    attributes = tuple((name, str(value)) for name, value in node.attributes.items())
    shares_name = rule.family in ("router", "pointwise", "row", "convolution")  # with a rule of other steps
    steps = _steps_key(rule) if shares_name else ""
    keeps = rule.family in PAST and bool(kept_by(graph, node))
    return node.op.name, shapes, of_heads, attributes, steps, keeps


def _steps_key(rule: Rule) -> Hashable:
    """What a rule's steps compute, whatever its operands and results are called.

    A kernel with a linear map has names of its own: where they are taken, that kernel is not made.
    """
    places = {name: OperandRef(str(place)) for place, name in enumerate(rule.inputs)}
    steps = []
    for step in rule.steps:
        inputs = [places[ref.name] if isinstance(ref, OperandRef) else ref for ref in step.inputs]
        steps.append((step.op.name, inputs, dict(step.attributes), len(step.names)))
    return repr((steps, rule.outputs)), OF_LINEARS.isdisjoint((*rule.inputs, *rule.output_names))


def _shape_key(type_: TensorType, family: str) -> Hashable:
    """What a kernel of a family follows from, of an operand's type."""
    if family == "row":  # its rows are of tensors of several shapes
        return type_
    if family in ("norm", "pointwise"):
        return len(type_.shape) == 1, type_.dtype, type_.width
    shape = type_.shape[2:] if len(type_.shape) > 2 else type_.shape
    return type_.dtype, tuple(dim for dim in shape if isinstance(dim, int))
