"""A program and its fused graph -> the kernels of its package, and what follows from these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

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
    plan_absorbing,
    plan_capacities,
    plan_embedding,
    plan_grouped,
    plan_widening,
)
from archc.codegen.modules.head import Cut, cut_head
from archc.codegen.modules.kept import PAST
from archc.codegen.semantics import Semantics, Use, use_of
from archc.ir.decoding import decodes, no_generation
from archc.ir.first_layer import OptionalInputs, optional_inputs
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.ops.recurrence import CARRIED, NEW_POSITIONS
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
from archc.ir.packing import unpacked_by
from archc.ir.program import Program, packs_documents
from archc.ir.rule import rule_of
from archc.target import CUDA, Target
from archc.tuned import NOTHING, Tuned


@dataclass(frozen=True)
class KernelPlanner:
    """Plans the kernels of a program's package on a target.

    fused:     the graph after all passes, from which model.py and kernels.py are written
    reference: the graph as the spec says it, with its cache planned, for reference.py
    tuned:     what was measured of the target
    """

    program: Program
    fused: Graph
    reference: Graph
    target: Target = CUDA
    tuned: Tuned = NOTHING

    @cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """Each after those that it calls."""
        return (
            *_in_order(self.fused_kernels, self.parts, self.target),
            *self.recurrences.kernels.values(),
            *(each for each in (self.linear, self.loss) if each is not None),
            *self.linears_after.values(),
        )

    @cached_property
    def cached(self) -> bool:
        """Whether the model reads tokens in pieces, with a cache."""
        return decodes(self.reference)

    @cached_property
    def generates(self) -> bool:
        """Whether it writes tokens."""
        return self.cached and not no_generation(self.reference, self.program.following)

    @property
    def following(self) -> Graph | None:
        """What comes with the tokens that it writes."""
        return self.program.following if self.generates else None

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
        graphs += [self.following] if self.following else []
        return Semantics([use for graph in graphs for use in _uses(graph)])

    @cached_property
    def fused_kernels(self) -> tuple[Kernel, ...]:
        """Those of fused nodes."""
        return self.table.plans(self.semantics, self._suited)

    @property
    def _suited(self) -> Target:
        """The target, without what only single tokens need where none come."""
        return self.target if self.cached else self.target.without("steps")

    @cached_property
    def linear(self) -> LinearKernel | None:
        maps = linear_maps(self.parts, self.cut)
        alone = linear_maps(self.parts, self.cut, self._called_after)
        return plan_linear(maps, alone, self.tuned, self.target, self._names)

    @cached_property
    def pairs(self) -> Callable[[Graph], dict[int, Pair]]:
        """By fused nodes the linear maps called with them, where single rows come, as in decoding."""
        joins = self.cached and "linear" in self.target.families
        return cache(lambda graph: linears_after(graph, self.tuned) if joins else {})

    def _called_after(self, graph: Graph) -> set[int]:
        """The linear maps that are called with the fused ops before them."""
        return {pair.linear.id for pair in self.pairs(graph).values()}

    @cached_property
    def linears_after(self) -> dict[Key, LinearAfterKernel]:
        """Linear maps of one row with the fused ops before them, by the names of these."""
        return plan_linears_after(
            self.parts, self.pairs, self._plan_before, self.linear, self.tuned, self._names
        )

    def _plan_before(self, graph: Graph, node: Node) -> Kernel:
        """The kernel of a fused node with a linear map, which knows of None only where this node reads it."""
        if any(part is graph and reader.id == node.id for part, reader in self.optional.readers):
            return self.plan_of(graph, node)
        return self.table.plan_of_given(graph, node, self.semantics, self._suited)

    @cached_property
    def _plans(self) -> dict[str, Kernel]:
        return {kernel.name: kernel for kernel in self.fused_kernels}

    def plan_of(self, graph: Graph, node: Node) -> Kernel:
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
        return [kernel.name for kernel in self.fused_kernels]

    @cached_property
    def packed(self) -> bool:
        """Whether documents that share a row stay in it."""
        return packs_documents(self.fused) and self.unpacked_by is None

    @cached_property
    def unpacked_by(self) -> Node | None:
        """What keeps documents, of a model that takes them, from staying in their row."""
        return unpacked_by(self.fused, self._takes_apart) if packs_documents(self.fused) else None

    def _takes_apart(self, graph: Graph, node: Node) -> bool:
        """Whether a node is the call of a function that computes each document by itself."""
        rule = rule_of(node)
        return (rule is not None and rule.family in PAST) or bool(
            node.op.carries and self.recurrences.function(graph, node)
        )


def _in_order(kernels: Sequence[Kernel], parts: Sequence[Graph], target: Target) -> Iterator[Kernel]:
    """Kernels of ops, each after those that it calls."""
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
