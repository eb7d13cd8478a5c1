"""A program and its fused graph -> the plan of a package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from archc.codegen.class_plan import Class
from archc.codegen.classes import ClassWriter
from archc.codegen.dispatched_plan import DispatchedKernel
from archc.codegen.head import cut_head
from archc.codegen.kept import kept_by, trains
from archc.codegen.kernel_plan import (
    AbsorptionKernel,
    CapacityKernel,
    GroupedKernel,
    Kernel,
    OpKernel,
    WideLinearKernel,
)
from archc.codegen.kernels import KernelTable, fused_nodes
from archc.codegen.linear_kernel import linear_shapes, plan_linear
from archc.codegen.literals import given
from archc.codegen.loss_kernel import plan_loss
from archc.codegen.native_layer import plan_native_layer
from archc.codegen.optional_values import optional_inputs
from archc.codegen.parameters import path_code
from archc.codegen.plan import Constant, Module, Package, Tokens
from archc.codegen.semantics import Semantics, use_of
from archc.ir.fixed import decodes
from archc.ir.graph import Graph, Node
from archc.ir.op import Op
from archc.ir.ops.absorption import ABSORB_VALUES
from archc.ir.ops.balance import WITHIN_CAPACITY
from archc.ir.ops.experts import SORT_CHOICES
from archc.ir.ops.linear import WIDE_LINEAR
from archc.ir.ops.structure import APPEND, BRANCH, EXPERTS, INPUT, KEEP, LOOP, LOSSES, NOTED, RECENT, WEIGHT
from archc.ir.ops.training import DROP_CROWDED, IN_TRAINING, JITTERED_LINEAR
from archc.ir.program import Program, given_inputs, sequences, vocabulary_of
from archc.ir.rule import rule_of
from archc.ir.sizes import NamedFloat, Size
from archc.ir.types import DType, shape_text
from archc.target import CUDA, Target
from archc.tuned import NOTHING, Tuned

_LOSSES = ("Losses", *(op.name for op in IN_TRAINING))
_MODULES = ("experts", "kernels", "native", "Stored", "at_least_float32", "per_expert")
_RUNTIME = ("Cache", "Numbers", "Ring", "Span", "fixed_span", "once", "past", "remember", "spans", "vector")


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
    table = KernelTable(fused_nodes(parts))
    for graph, node in readers:
        table.allow_none(graph, node)
    semantics = Semantics([use for g in (fused, reference, *table.decompositions()) for use in _uses(g)])
    cached = decodes(reference)
    kernels = table.plans(semantics, target if cached else target.without("steps"))
    names = [kernel.name for kernel in kernels]
    linear = plan_linear(linear_shapes(parts, cut), tuned, target, names)
    loss = plan_loss(cut, names, target) if cut else None
    constants = _constants(program.parameters)
    reserved = frozenset(
        {constant.name for constant in constants}
        | set(semantics.sources)
        | {*_RUNTIME, *_LOSSES, *_MODULES, "losses"}
    )
    vocabulary = vocabulary_of(reference)
    base = "LanguageModel" if vocabulary else "CheckpointModule"

    def call(graph: Graph, node: Node, operands: list[str]) -> str:
        if node.op.module:
            return f"{node.op.module}.{table.name(graph, node)}({', '.join(given(node.op, operands))})"
        while operands and operands[-1] == "None":
            operands = operands[:-1]
        return f"kernels.{table.name(graph, node)}({', '.join(operands)})"

    plans = {kernel.name: kernel for kernel in kernels}
    model = ClassWriter(
        semantics,
        call,
        reserved,
        optional,
        linear,
        "native.linear",
        partial(plan_native_layer, lambda graph, node: plans[table.name(graph, node)]),
    )
    model.model("Model", _doc(program, fused, "fused"), fused, cached, _result_type(fused), cut, loss)
    plain = ClassWriter(semantics, call, reserved, frozenset())
    plain.model("Reference", _doc(program, reference, "op by op"), reference, cached, _result_type(reference))
    helpers = tuple(
        semantics.sources[name] for name in _used(semantics, _texts(plain.classes, kernels, model.classes))
    )
    return Package(
        name=program.name,
        generates=cached,
        loss=vocabulary > 0,
        vocabulary=vocabulary,
        sequences=_sequences(fused),
        start=program.start,
        rings=_has_op(fused, RECENT),
        numbers=any(_keeps_numbers(part) for part in fused.walk()),
        once=any(_mentions(_class_text(each), "once") for each in (plain.classes, model.classes)),
        vectors=any(_mentions(text, "vector") for text in helpers),
        experts=any(part.experts() for part in reference.walk()),
        wide=_has_wide(plain.classes),
        terms=_terms(reference),
        trains=trains(reference),
        in_training=tuple(op.name for op in IN_TRAINING if _has_op(reference, op) or _has_op(fused, op)),
        training_words=tuple(op.name for op in IN_TRAINING if _has_op(reference, op)),
        root=program.root,
        ignored=program.ignored,
        tied=tuple((path_code(alias), path_code(target)) for alias, target in program.tied),
        model=_module(f"The fused model {program.name}.", model.classes, semantics, constants, base, ()),
        reference=_module(
            f"The unfused model {program.name}, op by op as its spec says it.",
            plain.classes,
            semantics,
            constants,
            base,
            helpers,
        ),
        kernels=(
            *(kernel for kernel in kernels if not isinstance(kernel, DispatchedKernel)),
            *_grouped(parts, target),
            *(kernel for kernel in kernels if isinstance(kernel, DispatchedKernel)),
            *_absorbing(parts, target),
            *_widening(parts),
            *_capacities(parts),
            *(each for each in (linear, loss) if each is not None),
        ),
    )


def _has_op(graph: Graph, op: Op) -> bool:
    return any(node.op is op for part in graph.walk() for node in part.nodes())


def _terms(graph: Graph) -> tuple[str, ...]:
    """The terms that a spec adds to the loss, in its order."""
    names: dict[str, None] = {}
    for part in graph.walk():
        for node in part.losses():
            kinds = zip(node.attributes["kinds"], node.attributes["body"].outputs, strict=True)
            names.update((name, None) for kind, (name, _) in kinds if kind == "loss")
    return tuple(names)


def _grouped(parts: Iterable[Graph], target: Target) -> list[GroupedKernel]:
    """The kernels of experts, where a model has some that are computed together."""
    sorted_ = any(node.op is SORT_CHOICES for part in parts for node in part.nodes())
    return [GroupedKernel()] if sorted_ and "experts" in target.families else []


def _absorbing(parts: Iterable[Graph], target: Target) -> list[AbsorptionKernel]:
    """The product behind attention that absorbs maps, where a model has some."""
    absorbs = any(node.op is ABSORB_VALUES for part in parts for node in part.nodes())
    return [AbsorptionKernel("steps" in target.families)] if absorbs else []


def _widening(parts: Sequence[Graph]) -> list[WideLinearKernel]:
    """The kernel of linear maps into float32, where a model has some."""
    weights = [
        part.type(node.inputs[1]).shape
        for part in parts
        for node in part.nodes()
        if node.op in (WIDE_LINEAR, JITTERED_LINEAR) and node.inputs[1] is not None
    ]
    shapes = dict.fromkeys((int(out), int(width)) for out, width in weights)
    noisy = any(_has_op(part, JITTERED_LINEAR) for part in parts)
    return [WideLinearKernel(tuple(shapes), noisy)] if shapes else []


def _capacities(parts: Sequence[Graph]) -> list[CapacityKernel]:
    """The kernels of what experts can take, where a model says so."""
    found = []
    for op in (WITHIN_CAPACITY, DROP_CROWDED):
        places = [(part, node) for part in parts for node in part.nodes() if node.op is op]
        choices = dict.fromkeys(int(node.types[0].width) for _, node in places)
        if choices:
            keeps = any(kept_by(*place) for place in places)
            found.append(CapacityKernel(op.name, tuple(choices), keeps))
    return found


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


# --------------------------------------------------------------------- modules


def _module(
    title: str,
    classes: Sequence[Class],
    semantics: Semantics,
    constants: Sequence[Constant],
    base: str,
    helpers: tuple[str, ...],
) -> Module:
    text = "\n".join([_class_text(classes), *helpers])
    runtime = sorted(name for name in _RUNTIME if _mentions(text, name))
    stored = {"Stored", base} | ({"per_expert"} if _has_experts(classes) else set())
    stored |= {"at_least_float32"} if _has_wide(classes) else set()
    imports = [f"from .checkpoint import {', '.join(sorted(stored - {'LanguageModel'}))}"]
    if base == "LanguageModel":
        imports.append("from .language_model import LanguageModel")
    modules = [name for name in ("experts", "kernels", "native") if f"{name}." in text]
    losses = sorted(name for name in _LOSSES if _mentions(text, name))
    if losses:
        imports.append(f"from .losses import {', '.join(losses)}")
    if modules:
        imports.insert(0, f"from . import {', '.join(modules)}")
    if not helpers and _used(semantics, [text]):
        imports.append(f"from .reference import {', '.join(_used(semantics, [text]))}")
    if runtime:
        imports.append(f"from .runtime import {', '.join(runtime)}")
    used = tuple(constant for constant in constants if _mentions(text, constant.name))
    return Module(title, tuple(imports), used, helpers, tuple(classes))


def _has_wide(classes: Sequence[Class]) -> bool:
    """Whether some parameters are kept in float32."""
    return any(parameter.wide for each in classes for parameter in each.parameters)


def _has_experts(classes: Sequence[Class]) -> bool:
    return any(parameter.per_expert for each in classes for parameter in each.parameters)


def _class_text(classes: Sequence[Class]) -> str:
    """Everything that is written of classes, to see which names it mentions."""
    parts: list[str] = []
    for each in classes:
        parts += [str(line) for line in each.lines]
        parts += [p.per_expert.count for p in each.parameters if p.per_expert]
        parts += [p.shape + " " + " ".join(s.rows for s in p.stored) for p in each.parameters]
        parts += [layers.modules for layers in each.layers]
        parts += [str(argument) for argument in each.arguments]
        parts += [each.result, *(shape for _, shape in each.state)]
        if each.native:
            parts.append("native.call")
        if each.fixed:
            parts += [*map(str, each.fixed.lines), *map(str, each.fixed.arguments), each.fixed.result]
        if each.head:
            parts += [f"kernels.{each.head.loss.name}", each.head.linear]
            parts += [*map(str, each.head.tail), each.head.result]
    return "\n".join(parts)


def _kernel_texts(kernels: Sequence[Kernel]) -> list[str]:
    return [str(line) for k in kernels if isinstance(k, OpKernel) for line in k.op.plain]


def _texts(plain: Sequence[Class], kernels: Sequence[Kernel], model: Sequence[Class]) -> list[str]:
    return [_class_text(plain), _class_text(model), *_kernel_texts(kernels)]


def _used(semantics: Semantics, texts: Iterable[str]) -> tuple[str, ...]:
    """Names of the reference functions that texts call, in order of the alphabet."""
    joined = "\n".join(texts)
    return tuple(
        sorted(
            name
            for name in semantics.sources
            if re.search(rf"(?:(?<![\w.])|(?<=reference\.)){name}[(,]", joined)
        )
    )


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", text) is not None


def _constants(parameters: Mapping[str, Any]) -> list[Constant]:
    """The arch's numbers under the names that sizes refer to."""
    constants: list[Constant] = []
    for value in parameters.values():
        if isinstance(value, Size):
            constants.append(Constant(value.text, str(int(value))))
        elif isinstance(value, NamedFloat):
            constants.append(Constant(value.name, repr(float(value))))
    return constants


# ----------------------------------------------------------------------- model


def _result_type(graph: Graph) -> str:
    count = len(graph.outputs)
    return "Tensor" if count == 1 else f"tuple[{', '.join(['Tensor'] * count)}]"


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
