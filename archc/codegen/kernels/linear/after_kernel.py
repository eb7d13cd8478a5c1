"""Plans for linear maps of one row that begin with the fused op before them: a norm, or an activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from archc.codegen.kernels.kernel_plan import Kernel
from archc.codegen.kernels.linear.after_plan import LinearAfterKernel
from archc.codegen.kernels.linear.linear_kernel import Map, linear_map
from archc.codegen.kernels.linear.linear_plan import LinearKernel
from archc.codegen.kernels.linear.one_row import OneRow
from archc.codegen.kernels.norms.norm_plan import NormKernel
from archc.codegen.kernels.rows.pointwise_plan import PointwiseKernel
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node

_NORMED = 4096  # columns of a row beside which a program holds two rows of the weight, and the next two
_AFTER_POINTWISE = (4, 2, 1)  # the most of which
_PROGRAMS = 512  # are left for the multiprocessors of a GPU


def plan_linears_after(
    parts: Sequence[Graph],
    pairs: Callable[[Graph], Mapping[int, Node]],
    plan: Callable[[Graph, Node], Kernel],
    linear: LinearKernel | None,
    taken: Sequence[str],
) -> dict[str, LinearAfterKernel]:
    """The kernels of fused ops with the linear maps after them, by the names of the ops' own."""
    sites: dict[str, list[tuple[Graph, Node]]] = {}
    plans: dict[str, NormKernel | PointwiseKernel] = {}
    for part in parts:
        for number, after in pairs(part).items():
            before = plan(part, part.node(number))
            assert isinstance(before, NormKernel | PointwiseKernel)
            plans[before.name] = before
            sites.setdefault(before.name, []).append((part, after))
    names = {*taken, *([linear.name] if linear else [])}
    found = {}
    for key, before in plans.items():
        name = unique(f"{key}_linear", names)
        names.add(name)
        found[key] = _plan(name, before, sites[key], linear)
    return found


def _plan(
    name: str,
    before: NormKernel | PointwiseKernel,
    sites: Sequence[tuple[Graph, Node]],
    linear: LinearKernel | None,
) -> LinearAfterKernel:
    row = before.one_row
    assert row is not None
    maps = tuple(dict.fromkeys(found for site in sites if (found := linear_map(*site))))
    own = linear is not None and any(linear.has(shape) for shape, _ in maps)
    product = unique("z", {*before.op.names, *before.op.outputs})
    weights = "linear_weight, linear_bias" if any(biased for _, biased in maps) else "linear_weight"
    return LinearAfterKernel(
        name=name,
        equation=(*before.equation, f"{product} = linear({row.result}, {weights})"),
        before=before.name,
        op=before.op,
        linear=linear.name if linear and own else "native.linear",
        row=row,
        product=product,
        outputs=_outputs(before, row, maps),
        maps=maps,
    )


def _outputs(before: NormKernel | PointwiseKernel, row: OneRow, maps: Sequence[Map]) -> int:
    """How many outputs a program computes at a time."""
    if isinstance(before, NormKernel):
        return 2 if row.block <= _NORMED else 1
    fewest = min(outputs for (outputs, _), _ in maps)
    return next((each for each in _AFTER_POINTWISE if fewest // each >= _PROGRAMS), _AFTER_POINTWISE[-1])
