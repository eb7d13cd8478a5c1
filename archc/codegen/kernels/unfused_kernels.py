"""Kernels for single ops: experts, absorbed maps, products in float32, capacities and gradients of tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from archc.codegen.kernels.kernel_plan import (
    AbsorptionKernel,
    CapacityKernel,
    EmbeddingKernel,
    GroupedKernel,
    WideLinearKernel,
)
from archc.codegen.modules.kept import kept_by
from archc.ir.graph import Graph
from archc.ir.op import Op
from archc.ir.ops.absorption import ABSORB_VALUES
from archc.ir.ops.balance import WITHIN_CAPACITY
from archc.ir.ops.experts import COMBINE, DISPATCHED_LINEAR, SORT_CHOICES, WEIGHTED_COMBINE
from archc.ir.ops.linear import EMBEDDING, WIDE_LINEAR
from archc.ir.ops.training import DROP_CROWDED, JITTERED_LINEAR
from archc.target import Target

_CAPACITIES = (WITHIN_CAPACITY, DROP_CROWDED)

# What functions of kernels.py are called, whatever else a model has.
NAMES = frozenset(each.name for each in (AbsorptionKernel, EmbeddingKernel, WideLinearKernel, *_CAPACITIES))


def plan_grouped(parts: Sequence[Graph], target: Target) -> list[GroupedKernel]:
    """The kernels of experts, where a model has some that are computed together."""
    if not (has_op(parts, SORT_CHOICES) and "experts" in target.families):
        return []
    ops = (DISPATCHED_LINEAR, COMBINE, WEIGHTED_COMBINE)
    return [GroupedKernel(frozenset(op.name for op in ops if has_op(parts, op)))]


def plan_absorbing(parts: Sequence[Graph], target: Target) -> list[AbsorptionKernel]:
    """The product after attention that absorbs maps, where a model has some."""
    absorbs = has_op(parts, ABSORB_VALUES)
    return [AbsorptionKernel("steps" in target.families)] if absorbs else []


def plan_widening(parts: Sequence[Graph]) -> list[WideLinearKernel]:
    """The kernel of linear maps into float32, where a model has some."""
    widens = any(has_op(parts, op) for op in (WIDE_LINEAR, JITTERED_LINEAR))
    return [WideLinearKernel()] if widens else []


def plan_embedding(parts: Sequence[Graph], target: Target) -> list[EmbeddingKernel]:
    """The gradient of tables, where a model has some and the target a kernel for it."""
    return [EmbeddingKernel()] if has_op(parts, EMBEDDING) and "embedding" in target.families else []


def plan_capacities(parts: Sequence[Graph]) -> list[CapacityKernel]:
    """The kernels of what experts can take, where a model says so."""
    found = []
    for op in _CAPACITIES:
        places = [(part, node) for part in parts for node in part.nodes() if node.op is op]
        choices = dict.fromkeys(int(node.types[0].width) for _, node in places)
        if choices:
            keeps = any(kept_by(*place) for place in places)
            found.append(CapacityKernel(op.name, tuple(choices), keeps))
    return found


def has_op(parts: Iterable[Graph], op: Op) -> bool:
    """Whether some of the graphs have an op, apart from the bodies inside of their nodes."""
    return any(node.op is op for part in parts for node in part.nodes())
