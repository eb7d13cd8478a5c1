"""A program and its fused graph -> the plan of a package."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial

from archc.codegen.kernel_planner import KernelPlanner
from archc.codegen.kernels.table import KernelTable
from archc.codegen.kernels.unfused_kernels import has_op
from archc.codegen.literals import given
from archc.codegen.modules.class_plan import Class
from archc.codegen.modules.classes import ClassWriter
from archc.codegen.modules.functions import Functions
from archc.codegen.modules.kept import KeptPart, trains
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
from archc.ir.decoding import depends_on_length
from archc.ir.first_layer import may_be_none
from archc.ir.graph import Graph
from archc.ir.logits import logits_of
from archc.ir.node import Node, Value
from archc.ir.ops.experts import OF_EXPERT
from archc.ir.ops.recurrence import CARRIED
from archc.ir.ops.router import UNLESS_ZERO
from archc.ir.ops.structure import RECENT
from archc.ir.ops.training import IN_TRAINING
from archc.ir.program import Program, front_of, given_inputs, most_tokens, packs_documents
from archc.ir.types import DType
from archc.target import CUDA, Target
from archc.tuned import NOTHING, Tuned


def plan_package(
    program: Program, fused: Graph, reference: Graph, target: Target = CUDA, tuned: Tuned = NOTHING
) -> Package:
    """The plan for a program on a target; for its graphs see `KernelPlanner`."""
    return _Planner(program, fused, reference, target, tuned).package()


class _Planner(KernelPlanner):
    """Plans the modules that call the kernels, too."""

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
        writer.model("Reference", doc, graph, self.cached, self.following)
        return list(writer.classes.values())

    def _model_classes(self) -> list[Class]:
        lookup = "kernels.embedding" if "embedding" in self.target.families else ""
        style = replace(self._style, linears_after=self._linears_after, packed=self.packed)
        writer = ClassWriter(
            style,
            Functions(self.linear, "native.linear", lookup, self.recurrences),
            self.optional.inputs,
            partial(plan_native_layer, self.plan_of),
        )
        doc, graph = self._doc(self.fused, "fused"), self.fused
        writer.model("Model", doc, graph, self.cached, self.following, self.cut, self.loss)
        return list(writer.classes.values())

    def _linears_after(self, graph: Graph) -> dict[int, LinearAfter]:
        """Those of a graph, by the numbers of the fused nodes before them."""
        found = {}
        for number, pair in self.pairs(graph).items():
            plan = self.linears_after[self.table.name(graph, graph.node(number)), pair.reading]
            found[number] = LinearAfter(pair.linear, f"kernels.{plan.name}", pair.reading.kept)
        return found

    def _modules(self) -> tuple[Module, Module]:
        """model.py and reference.py, which has the reference functions that either calls."""
        name, base = self.program.name, self._base
        plain, model = self._reference_classes(), self._model_classes()
        helpers = called_functions(self.semantics, plain, self.fused_kernels, model)
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
            generates=self.generates,
            following=tuple(argument(name) for name, _ in self.following.outputs) if self.following else (),
            logits=logits_of(self.reference),
            results=len(self.reference.outputs),
            base=self._base,
            sequences=token_sequences(self.fused),
            inputs=model_inputs(self.reference, self.cached),
            documents=packs_documents(self.reference),
            packed=self.packed,
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
            kernels=self.kernels,
            semantics=self.semantics,
        )


def _call(table: KernelTable, graph: Graph, node: Node, operands: list[str]) -> str:
    """The call of a fused op."""
    if node.op.module:
        return f"{node.op.module}.{table.name(graph, node)}({', '.join(given(node.op, operands))})"
    return f"kernels.{table.name(graph, node)}({', '.join(operands)})"


def _of_sequences(graph: Graph) -> bool:
    """Whether all that a cache keeps of other inputs has a row for each sequence."""
    return all(graph.type(value).shape[:1] == ("B",) for value in KeptPart(graph).values)


def _type(graph: Graph, value: Value) -> str:
    type_ = graph.type(value)
    dims = ", ".join(str(int(dim)) if isinstance(dim, int) else dim for dim in type_.shape)
    return f"[{dims}]"
