"""A program and its fused graph -> the plan of a package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

from archc.codegen.kernels.experts.dispatched_plan import DispatchedKernel
from archc.codegen.kernels.kernel_plan import Kernel
from archc.codegen.kernels.linear.after_kernel import Key, plan_linears_after
from archc.codegen.kernels.linear.after_plan import LinearAfterKernel
from archc.codegen.kernels.linear.linear_kernel import linear_maps, plan_linear
from archc.codegen.kernels.linear.linear_plan import LinearKernel
from archc.codegen.kernels.linear.loss_kernel import plan_loss
from archc.codegen.kernels.linear.loss_plan import LossKernel
from archc.codegen.kernels.linear.pairs import Pair, linears_after
from archc.codegen.kernels.recurrence.recurrence_kernel import Recurrences, plan_recurrences
from archc.codegen.kernels.table import KernelTable
from archc.codegen.kernels.unfused_kernels import (
    has_op,
    plan_absorbing,
    plan_capacities,
    plan_embedding,
    plan_grouped,
    plan_widening,
)
from archc.codegen.literals import given
from archc.codegen.modules.class_plan import Class
from archc.codegen.modules.classes import ClassWriter
from archc.codegen.modules.functions import Functions
from archc.codegen.modules.head import Cut, cut_head
from archc.codegen.modules.kept import PAST, KeptPart, trains
from archc.codegen.modules.module import TAKEN, called_functions, plan_module
from archc.codegen.modules.parameters import path_code
from archc.codegen.modules.style import LinearAfter, Style, no_loop
from archc.codegen.names import argument
from archc.codegen.native.native_layer import plan_native_layer
from archc.codegen.needs import (
    expert_operands,
    keeps,
    loss_terms,
    model_inputs,
    size_constants,
    token_sequences,
)
from archc.codegen.plan import Constant, Module, Package
from archc.codegen.semantics import Semantics, Use, use_of
from archc.ir.decoding import decodes, depends_on_length, no_generation
from archc.ir.first_layer import OptionalInputs, may_be_none, optional_inputs
from archc.ir.graph import Graph
from archc.ir.logits import logits_of
from archc.ir.node import Node, Value
from archc.ir.ops.experts import OF_EXPERT
from archc.ir.ops.recurrence import CARRIED, NEW_POSITIONS
from archc.ir.ops.router import UNLESS_ZERO
from archc.ir.ops.structure import (
    APPEND,
    BRANCH,
    EXPERTS,
    INPUT,
    KEEP,
    LOOP,
    LOSSES,
    NOTED,
    OF_ITERATION,
    RECENT,
    SCAN,
    WEIGHT,
)
from archc.ir.ops.training import IN_TRAINING
from archc.ir.packing import stays_packed
from archc.ir.program import Program, front_of, given_inputs, most_tokens, packs_documents
from archc.ir.rule import rule_of
from archc.ir.types import DType
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
    return _Planner(program, fused, reference, target, tuned).package()


@dataclass(frozen=True)
class _Planner:
    """What the parts of a plan have in common."""

    program: Program
    fused: Graph
    reference: Graph
    target: Target
    tuned: Tuned

    @cached_property
    def cached(self) -> bool:
        """Whether the model reads tokens in pieces, with a cache."""
        return decodes(self.reference)

    @cached_property
    def _generates(self) -> bool:
        """Whether it writes tokens."""
        return self.cached and not no_generation(self.reference, self.program.following)

    @cached_property
    def _packed(self) -> bool:
        """Whether documents that share a row stay in it."""
        return stays_packed(self.fused, self._takes_apart)

    def _takes_apart(self, graph: Graph, node: Node) -> bool:
        """Whether a node is the call of a function that computes each document by itself."""
        rule = rule_of(node)
        return (rule is not None and rule.family in PAST) or bool(
            node.op.carries and self.recurrences.function(graph, node)
        )

    @property
    def _following(self) -> Graph | None:
        """What comes with the tokens that it writes."""
        return self.program.following if self._generates else None

    @cached_property
    def cut(self) -> Cut | None:
        return cut_head(self.fused)

    @cached_property
    def parts(self) -> list[Graph]:
        """The fused graph and the bodies in it, with the head in a graph of its own."""
        return [part for top in (self.cut.graphs if self.cut else (self.fused,)) for part in top.walk()]

    @cached_property
    def optional(self) -> OptionalInputs:
        return optional_inputs(self.parts[0])

    @cached_property
    def table(self) -> KernelTable:
        table = KernelTable(self.parts)
        for graph, node in self.optional.readers:
            table.allow_none(graph, node)
        return table

    @cached_property
    def semantics(self) -> Semantics:
        graphs = [self.fused, self.reference, *self.table.decompositions()]
        graphs += [self._following] if self._following else []
        return Semantics([use for graph in graphs for use in _uses(graph)])

    @cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """Those of fused nodes."""
        return self.table.plans(self.semantics, self.target if self.cached else self.target.without("steps"))

    @cached_property
    def linear(self) -> LinearKernel | None:
        maps = linear_maps(self.parts, self.cut)
        alone = linear_maps(self.parts, self.cut, self._called_after)
        return plan_linear(maps, alone, self.tuned, self.target, self._names)

    @cached_property
    def _pairs(self) -> Callable[[Graph], dict[int, Pair]]:
        """By fused nodes the linear maps called with them, where single rows come, as in decoding."""
        joins = self.cached and "linear" in self.target.families
        return cache(lambda graph: linears_after(graph, self.tuned) if joins else {})

    def _called_after(self, graph: Graph) -> set[int]:
        """The linear maps that are called with the fused ops before them."""
        return {pair.linear.id for pair in self._pairs(graph).values()}

    @cached_property
    def linears_after(self) -> dict[Key, LinearAfterKernel]:
        """Linear maps of one row with the fused ops before them, by the names of these."""
        return plan_linears_after(
            self.parts, self._pairs, self._plan_of, self.linear, self.tuned, self._names
        )

    @cached_property
    def _plans(self) -> dict[str, Kernel]:
        return {kernel.name: kernel for kernel in self.kernels}

    def _plan_of(self, graph: Graph, node: Node) -> Kernel:
        """The kernel of a fused node."""
        return self._plans[self.table.name(graph, node)]

    @cached_property
    def loss(self) -> LossKernel | None:
        return plan_loss(self.cut, self._names, self.target) if self.cut else None

    @cached_property
    def recurrences(self) -> Recurrences:
        wanted = "recurrence" in self.target.families
        return plan_recurrences(self.parts if wanted else (), self.semantics)

    @property
    def _names(self) -> list[str]:
        return [kernel.name for kernel in self.kernels]

    @cached_property
    def constants(self) -> list[Constant]:
        return size_constants(self.program.parameters)

    @cached_property
    def reserved(self) -> frozenset[str]:
        """Names that no variable may take."""
        constants = {constant.name for constant in self.constants}
        return frozenset(constants | set(self.semantics.sources) | TAKEN)

    @cached_property
    def _style(self) -> Style:
        """How all statements of model.py and reference.py are written."""
        call = partial(_call, self.table)
        return Style(self.semantics, call, {}, self.reserved, no_loop, none_for_zeros=may_be_none)

    def _reference_classes(self) -> list[Class]:
        writer = ClassWriter(self._style)
        doc, graph = self._doc(self.reference, "op by op"), self.reference
        writer.model("Reference", doc, graph, self.cached, self._following)
        return list(writer.classes.values())

    def _model_classes(self) -> list[Class]:
        lookup = "kernels.embedding" if "embedding" in self.target.families else ""
        style = replace(self._style, linears_after=self._linears_after, packed=self._packed)
        writer = ClassWriter(
            style,
            Functions(self.linear, "native.linear", lookup, self.recurrences),
            self.optional.inputs,
            partial(plan_native_layer, self._plan_of),
        )
        doc, graph = self._doc(self.fused, "fused"), self.fused
        writer.model("Model", doc, graph, self.cached, self._following, self.cut, self.loss)
        return list(writer.classes.values())

    def _linears_after(self, graph: Graph) -> dict[int, LinearAfter]:
        """Those of a graph, by the numbers of the fused nodes before them."""
        found = {}
        for number, pair in self._pairs(graph).items():
            plan = self.linears_after[self.table.name(graph, graph.node(number)), pair.reading]
            found[number] = LinearAfter(pair.linear, f"kernels.{plan.name}", pair.reading.kept)
        return found

    def _modules(self) -> tuple[Module, Module]:
        """model.py and reference.py, which has the reference functions that either calls."""
        name, base = self.program.name, self._base
        plain, model = self._reference_classes(), self._model_classes()
        helpers = called_functions(self.semantics, plain, self.kernels, model)
        unfused = f"The unfused model {name}, op by op as its spec says it."
        return (
            plan_module(f"The fused model {name}.", model, self.semantics, self.constants, base, ()),
            plan_module(unfused, plain, self.semantics, self.constants, base, helpers),
        )

    @property
    def _base(self) -> str:
        """The class that a model is one of."""
        if logits_of(self.reference):
            return "LanguageModel"
        return "CachedModel" if self.cached else "CheckpointModule"

    def _doc(self, graph: Graph, manner: str) -> tuple[str, ...]:
        inputs = ", ".join(f"{graph.name_of(v)} {_type(graph, v)}" for v in given_inputs(graph))
        outputs = ", ".join(f"{name} {_type(graph, value)}" for name, value in graph.outputs)
        place = self.program.span.line_reference
        return (f"{self.program.arch}, {manner}: {inputs} -> {outputs}.  {place}",)

    def package(self) -> Package:
        model, reference = self._modules()
        fused, plain = list(self.fused.walk()), list(self.reference.walk())
        return Package(
            name=self.program.name,
            cached=self.cached,
            generates=self._generates,
            following=tuple(argument(name) for name, _ in self._following.outputs) if self._following else (),
            logits=logits_of(self.reference),
            results=len(self.reference.outputs),
            base=self._base,
            sequences=token_sequences(self.fused),
            inputs=model_inputs(self.reference, self.cached),
            documents=packs_documents(self.reference),
            packed=self._packed,
            by_length=depends_on_length(self.reference),
            front=front_of(self.reference),
            copied=all(_of_sequences(part) for part in (*fused, *plain)),
            most_tokens=most_tokens(self.reference),
            start=self.program.start,
            rings=has_op(fused, RECENT),
            numbers=any(keeps(part, DType.I64) for part in fused),
            wide_slots=any(keeps(part, DType.F32) for part in fused),
            states=has_op(fused, CARRIED),
            experts=any(part.experts() for part in plain),
            expert_operands=frozenset(expert_operands(self.parts)),
            skips=has_op(plain, UNLESS_ZERO),
            of_expert=has_op(fused, OF_EXPERT),
            terms=loss_terms(self.reference),
            trains=trains(self.reference),
            in_training=tuple(op.name for op in IN_TRAINING if has_op([*plain, *fused], op)),
            training_words=tuple(op.name for op in IN_TRAINING if has_op(plain, op)),
            root=self.program.root,
            ignored=self.program.ignored,
            tied=tuple((path_code(alias), path_code(target)) for alias, target in self.program.tied),
            model=model,
            reference=reference,
            kernels=(
                *_in_order(self.kernels, self.parts, self.target),
                *self.recurrences.kernels.values(),
                *(each for each in (self.linear, self.loss) if each is not None),
                *self.linears_after.values(),
            ),
            semantics=self.semantics,
        )


def _call(table: KernelTable, graph: Graph, node: Node, operands: list[str]) -> str:
    """The call of a fused op."""
    if node.op.module:
        return f"{node.op.module}.{table.name(graph, node)}({', '.join(given(node.op, operands))})"
    return f"kernels.{table.name(graph, node)}({', '.join(operands)})"


def _in_order(kernels: Sequence[Kernel], parts: Sequence[Graph], target: Target) -> Iterator[Kernel]:
    """The kernels of a package, each after those that it calls."""
    yield from (kernel for kernel in kernels if not isinstance(kernel, DispatchedKernel))
    yield from plan_grouped(parts, target)
    yield from (kernel for kernel in kernels if isinstance(kernel, DispatchedKernel))
    yield from plan_absorbing(parts, target)
    yield from plan_widening(parts)
    yield from plan_capacities(parts)
    yield from plan_embedding(parts, target)


def _uses(graph: Graph) -> Iterable[Use]:
    """The nodes of a graph, and of its loops, that are written as calls of reference functions."""
    regions = (LOOP, EXPERTS, SCAN, BRANCH, LOSSES, NOTED)
    structural = (INPUT, WEIGHT, APPEND, KEEP, RECENT, CARRIED, NEW_POSITIONS, OF_ITERATION, *regions)
    for part in graph.walk_all():
        for node in part.nodes():
            if node.op not in structural and not _is_elsewhere(node):
                yield use_of(node)


def _is_elsewhere(node: Node) -> bool:
    """Whether a package has a function for a node in another module than its reference."""
    return bool(node.op.module) or node.op in IN_TRAINING or rule_of(node) is not None


def _of_sequences(graph: Graph) -> bool:
    """Whether all that a cache keeps of other inputs has a row for each sequence."""
    return all(graph.type(value).shape[:1] == ("B",) for value in KeptPart(graph).values)


def _type(graph: Graph, value: Value) -> str:
    type_ = graph.type(value)
    dims = ", ".join(str(int(dim)) if isinstance(dim, int) else dim for dim in type_.shape)
    return f"[{dims}]"
