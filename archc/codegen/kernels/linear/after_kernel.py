"""Plans for linear maps of one row that begin with the fused op before them: a norm, or an activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from archc.codegen.kernels.kernel_plan import Kernel
from archc.codegen.kernels.linear.after_plan import LinearAfterKernel
from archc.codegen.kernels.linear.linear_kernel import Map
from archc.codegen.kernels.linear.linear_plan import LinearKernel
from archc.codegen.kernels.linear.one_row import OneRow, Reading
from archc.codegen.kernels.linear.pairs import Pair
from archc.codegen.kernels.norms.norm_plan import NormKernel
from archc.codegen.kernels.rows.pointwise_plan import PointwiseKernel
from archc.codegen.kernels.rows.row_plan import RowKernel
from archc.codegen.kernels.rows.row_writer import names_in
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node
from archc.tuned import Entry, Tuned

Before = NormKernel | PointwiseKernel | RowKernel
Key = tuple[str, Reading]  # the name of the fused op's kernel, and how its row is read

_NORMED = 4096  # columns of a row beside which a program holds two rows of the weight, and the next two
_AFTER_POINTWISE = (4, 2, 1)  # the most of which
_PROGRAMS = 512  # are left for the multiprocessors of a GPU


def plan_linears_after(
    parts: Sequence[Graph],
    pairs: Callable[[Graph], Mapping[int, Pair]],
    plan: Callable[[Graph, Node], Kernel],
    linear: LinearKernel | None,
    tuned: Tuned,
    taken: Sequence[str],
) -> dict[Key, LinearAfterKernel]:
    """The kernels of fused ops with the linear maps after them, by the names of the ops' own."""
    maps: dict[Key, dict[Map, None]] = {}
    plans: dict[Key, tuple[str, Before]] = {}
    for part in parts:
        for number, pair in pairs(part).items():
            node = part.node(number)
            before = plan(part, node)
            assert isinstance(before, NormKernel | PointwiseKernel | RowKernel)
            key = before.name, pair.reading
            if key not in plans or any(operand.optional for operand in before.op.operands):
                plans[key] = node.op.name, before  # what takes None does for all that are alike
            maps.setdefault(key, {})[pair.map] = None
    names = {*taken, *([linear.name] if linear else [])}
    found = {}
    for key, (op, before) in plans.items():
        name = unique(key[0] + key[1].suffix, names)
        names.add(name)
        found[key] = _plan(name, op, before, key[1], tuple(maps[key]), linear, tuned)
    return found


def _plan(
    name: str,
    op: str,
    before: Before,
    reading: Reading,
    maps: tuple[Map, ...],
    linear: LinearKernel | None,
    tuned: Tuned,
) -> LinearAfterKernel:
    row = before.one_row
    assert row is not None
    after = reading.after(op)
    best = _measured(after, maps, tuned)
    own = linear is not None and any(linear.has(shape) for shape, _ in maps)
    product = unique("z", {*before.op.names, *before.op.outputs}.union(*map(names_in, row.lines)))
    weights = "linear_weight, linear_bias" if any(biased for _, biased in maps) else "linear_weight"
    return LinearAfterKernel(
        name=name,
        equation=(*before.equation, f"{product} = linear({row.result}, {weights})"),
        before=before.name,
        op=before.op,
        linear="wide_linear" if reading.wide else linear.name if linear and own else "native.linear",
        reading=reading,
        row=replace(row, warps=best.tile.warps) if best else row,
        product=product,
        outputs=best.tile.outputs if best else _outputs(before, row, maps),
        maps=maps,
        after=after,
        remark=(
            f"{best.microseconds:.1f} us, two kernels {best.library:.1f}; {best.provenance}" if best else ""
        ),
    )


def _measured(op: str, maps: Sequence[Map], tuned: Tuned) -> Entry | None:
    """The measurement by which all maps after an op are divided: that of the largest."""
    entries = [entry for shape, _ in maps for entry in tuned.after(op, *shape)]
    return max(entries, key=lambda entry: entry.problem.elements, default=None)


def _outputs(before: Before, row: OneRow, maps: Sequence[Map]) -> int:
    """How many outputs a program computes at a time."""
    if not isinstance(before, PointwiseKernel):
        return 2 if row.block <= _NORMED else 1
    fewest = min(outputs for (outputs, _), _ in maps)
    return next((each for each in _AFTER_POINTWISE if fewest // each >= _PROGRAMS), _AFTER_POINTWISE[-1])
