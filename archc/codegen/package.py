"""A program and its fused graph -> the plan of a package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from archc.codegen.class_plan import Class
from archc.codegen.classes import ClassWriter
from archc.codegen.dispatched_plan import DispatchedKernel
from archc.codegen.head import cut_head
from archc.codegen.kept import trains
from archc.codegen.kernel_plan import Kernel
from archc.codegen.kernels import KernelTable
from archc.codegen.linear_kernel import linear_shapes, plan_linear
from archc.codegen.literals import given
from archc.codegen.loss_kernel import plan_loss
from archc.codegen.modules import (
    TAKEN,
    called_functions,
    has_experts,
    has_joined,
    has_wide,
    plan_module,
)
from archc.codegen.native_layer import plan_native_layer
from archc.codegen.optional_values import optional_inputs
from archc.codegen.parameters import path_code
from archc.codegen.plan import Constant, Module, Package, Tokens
from archc.codegen.semantics import Semantics, use_of
from archc.codegen.unfused_kernels import (
    has_op,
    plan_absorbing,
    plan_capacities,
    plan_embedding,
    plan_grouped,
    plan_widening,
)
from archc.ir.fixed import decodes
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.ops.experts import OF_EXPERT
from archc.ir.ops.structure import APPEND, BRANCH, EXPERTS, INPUT, KEEP, LOOP, LOSSES, NOTED, RECENT, WEIGHT
from archc.ir.ops.training import IN_TRAINING
from archc.ir.program import Program, given_inputs, sequences, vocabulary_of
from archc.ir.rule import rule_of
from archc.ir.sizes import NamedFloat, Size
from archc.ir.types import DType, shape_text
from archc.target import CUDA, Target
from archc.tuned import NOTHING, Tuned


def plan_package(
    program: Program, fused: Graph, reference: Graph, target: Target = CUDA, tuned: Tuned = NOTHING
) -> Package:
    """The plan for a program on a target.

    fused:     the graph after all passes, from which model.py and kernels.py are written
    reference: the graph as the spec says it, with its cache planned, for reference.py
    tuned:     what was measured of the target
    """
    cut = cut_head(fused)
    parts = [part for top in (cut.graphs if cut else (fused,)) for part in top.walk()]
    optional, readers = optional_inputs(parts[0])
    table = KernelTable(parts)
    for graph, node in readers:
        table.allow_none(graph, node)
    semantics = Semantics([use for g in (fused, reference, *table.decompositions()) for use in _uses(g)])
    cached = decodes(reference)
    kernels = table.plans(semantics, target if cached else target.without("steps"))
    names = [kernel.name for kernel in kernels]
    linear = plan_linear(linear_shapes(parts, cut), tuned, target, names)
    loss = plan_loss(cut, names, target) if cut else None
    constants = _constants(program.parameters)
    reserved = frozenset({constant.name for constant in constants} | set(semantics.sources) | TAKEN)
    plans = {kernel.name: kernel for kernel in kernels}
    plain = ClassWriter(semantics, partial(_call, table), reserved, frozenset())
    plain.model("Reference", _doc(program, reference, "op by op"), reference, cached)
    model = ClassWriter(
        semantics,
        partial(_call, table),
        reserved,
        optional,
        linear,
        "native.linear",
        "kernels.embedding" if "embedding" in target.families else "",
        partial(plan_native_layer, lambda graph, node: plans[table.name(graph, node)]),
    )
    model.model("Model", _doc(program, fused, "fused"), fused, cached, cut, loss)
    vocabulary = vocabulary_of(reference)
    base = "LanguageModel" if vocabulary else "CheckpointModule"
    helpers = called_functions(semantics, plain.classes, kernels, model.classes)
    of_model, of_reference = _modules(
        program.name, base, model.classes, plain.classes, semantics, constants, helpers
    )
    return Package(
        name=program.name,
        generates=cached,
        loss=vocabulary > 0,
        vocabulary=vocabulary,
        sequences=_sequences(fused),
        start=program.start,
        rings=has_op(fused.walk(), RECENT),
        numbers=any(_keeps_numbers(part) for part in fused.walk()),
        experts=any(part.experts() for part in reference.walk()),
        per_expert=has_experts(plain.classes),
        joined=has_joined(plain.classes),
        expert_operands=frozenset(_expert_operands(parts)),
        of_expert=has_op(fused.walk(), OF_EXPERT),
        wide=has_wide(plain.classes),
        terms=_terms(reference),
        trains=trains(reference),
        in_training=tuple(
            op.name for op in IN_TRAINING if has_op(reference.walk(), op) or has_op(fused.walk(), op)
        ),
        training_words=tuple(op.name for op in IN_TRAINING if has_op(reference.walk(), op)),
        root=program.root,
        ignored=program.ignored,
        tied=tuple((path_code(alias), path_code(target)) for alias, target in program.tied),
        model=of_model,
        reference=of_reference,
        kernels=(
            *_in_order(kernels, parts, target),
            *(each for each in (linear, loss) if each is not None),
        ),
        semantics=semantics,
    )


def _modules(
    name: str,
    base: str,
    model: Sequence[Class],
    plain: Sequence[Class],
    semantics: Semantics,
    constants: Sequence[Constant],
    helpers: tuple[str, ...],
) -> tuple[Module, Module]:
    """model.py and reference.py, which has the reference functions that either calls."""
    title = f"The unfused model {name}, op by op as its spec says it."
    return (
        plan_module(f"The fused model {name}.", model, semantics, constants, base, ()),
        plan_module(title, plain, semantics, constants, base, helpers),
    )


def _call(table: KernelTable, graph: Graph, node: Node, operands: list[str]) -> str:
    """The call of a fused op, without what it may go without at the end."""
    if node.op.module:
        return f"{node.op.module}.{table.name(graph, node)}({', '.join(given(node.op, operands))})"
    while operands and operands[-1] == "None":
        operands = operands[:-1]
    return f"kernels.{table.name(graph, node)}({', '.join(operands)})"


def _in_order(kernels: Sequence[Kernel], parts: Sequence[Graph], target: Target) -> Iterator[Kernel]:
    """The kernels of a package, each behind those that it calls."""
    yield from (kernel for kernel in kernels if not isinstance(kernel, DispatchedKernel))
    yield from plan_grouped(parts, target)
    yield from (kernel for kernel in kernels if isinstance(kernel, DispatchedKernel))
    yield from plan_absorbing(parts, target)
    yield from plan_widening(parts)
    yield from plan_capacities(parts)
    yield from plan_embedding(parts, target)


def _expert_operands(parts: Sequence[Graph]) -> Iterator[str]:
    """The optional operands that some call of a function of experts has."""
    for part in parts:
        for node in part.nodes():
            if node.op.module == "experts":
                operands = zip(node.op.operands, node.inputs, strict=True)
                yield from (
                    operand.name for operand, value in operands if operand.optional and value is not None
                )


def _terms(graph: Graph) -> tuple[str, ...]:
    """The terms that a spec adds to the loss, in its order."""
    names: dict[str, None] = {}
    for part in graph.walk():
        for node in part.losses():
            kinds = zip(node.attributes["kinds"], node.attributes["body"].outputs, strict=True)
            names.update((name, None) for kind, (name, _) in kinds if kind == "loss")
    return tuple(names)


def _keeps_numbers(graph: Graph) -> bool:
    """Whether a cache keeps whole numbers of tokens."""
    return any(node.op is APPEND and node.types[0].dtype is DType.I64 for node in graph.nodes())


def _uses(graph: Graph) -> Iterable[Any]:
    """The calls of ops that are written as reference functions, here and in loops."""
    structural = (INPUT, WEIGHT, LOOP, EXPERTS, BRANCH, APPEND, KEEP, RECENT, LOSSES, NOTED)
    bodies = [node.attributes["body"] for part in graph.walk() for node in part.losses()]
    for part in (*graph.walk(), *bodies):
        for node in part.nodes():
            if node.op not in structural and not _is_elsewhere(node):
                yield use_of(node)


def _is_elsewhere(node: Node) -> bool:
    """Whether a package has a function for a node in another module than its reference."""
    return bool(node.op.module) or node.op in IN_TRAINING or rule_of(node) is not None


def _constants(parameters: Mapping[str, Any]) -> list[Constant]:
    """The arch's numbers under the names that sizes refer to."""
    constants: list[Constant] = []
    for value in parameters.values():
        if isinstance(value, Size):
            constants.append(Constant(value.text, str(int(value))))
        elif isinstance(value, NamedFloat):
            constants.append(Constant(value.name, repr(float(value))))
    return constants


def _sequences(graph: Graph) -> tuple[Tokens, ...]:
    inputs = [(graph.type(value).shape[:2], graph.name_of(value)) for value in given_inputs(graph)]
    return tuple(
        Tokens(next(name for dims, name in inputs if dims == s.dims), shape_text(s.dims), s.called("padding"))
        for s in sequences(graph)
    )


def _doc(program: Program, graph: Graph, manner: str) -> tuple[str, ...]:
    inputs = ", ".join(f"{graph.name_of(v)} {_type(graph, v)}" for v in given_inputs(graph))
    outputs = ", ".join(f"{name} {_type(graph, value)}" for name, value in graph.outputs)
    return (f"{program.arch}, {manner}: {inputs} -> {outputs}.  {program.span.line_reference}",)


def _type(graph: Graph, value: Any) -> str:
    type_ = graph.type(value)
    dims = ", ".join(str(int(dim)) if isinstance(dim, int) else dim for dim in type_.shape)
    return f"[{dims}]"
