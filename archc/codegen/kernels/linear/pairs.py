"""Where a linear map of one row is computed with the fused op before it."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.linear.linear_kernel import Map, map_of_row
from archc.codegen.kernels.linear.one_row import Reading
from archc.codegen.kernels.rows.last_row import last_row
from archc.codegen.modules.head import cut_head
from archc.codegen.modules.kept import KeptPart
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.ops.linear import WIDE_LINEAR
from archc.ir.row_form import row_form
from archc.ir.rule import Rule, decomposition, rule_of
from archc.tuned import LAUNCH, NOTHING, Problem, Tuned

MAX_NORMED = 1 << 14  # columns of a row in registers, which leave some for those of a weight beside it


@dataclass(frozen=True)
class Pair:
    """The linear map that is computed with a fused op, its shape and bias, and how it reads the row."""

    linear: Node
    map: Map
    reading: Reading


def linears_after(graph: Graph, tuned: Tuned = NOTHING) -> dict[int, Pair]:
    """By the number of a fused node the first linear map that reads its row, but for a model's head.

    tuned: what was measured of linear maps by themselves
    """
    kept, cut = KeptPart(graph), cut_head(graph)
    head = (cut.hidden, cut.weight.outputs[0]) if cut else None  # which is a method of its own
    found: dict[int, Pair] = {}
    for node in graph.nodes():
        row = None if node in kept else _row(graph, node)
        readers = graph.users(row) if row else []
        also = len(readers) > 1 or (row is not None and graph.is_output(row))
        pairs = (
            Pair(reader, map_, Reading(also, reader.op is WIDE_LINEAR))
            for reader, place in readers
            if place == 0 and reader not in kept and reader.inputs[:2] != head
            if (map_ := map_of_row(graph, reader)) is not None
        )
        first = next((pair for pair in pairs if _pays(node, pair, tuned)), None)
        if first is not None:
            found[node.id] = first
    return found


def _pays(before: Node, pair: Pair, tuned: Tuned) -> bool:
    """Whether nothing is known against a kernel for both.

    Where both were not measured together, the library's linear map is not faster by more than a launch.
    """
    shape, _ = pair.map
    together = tuned.after(pair.reading.after(before.op.name), *shape)
    if together or pair.reading.wide:
        return all(entry.is_chosen for entry in together)
    dtypes = {entry.problem.dtype for entry in tuned.entries}
    entries = [tuned.find(Problem(1, *shape, dtype)) for dtype in sorted(dtypes)]
    return all(entry.microseconds < entry.library + LAUNCH for entry in entries if entry)


def _row(graph: Graph, node: Node) -> Value | None:
    """What a linear map may read of a fused node."""
    rule = rule_of(node)
    if rule is None or rule.family not in ("norm", "pointwise", "row"):
        return None
    if rule.family == "row":
        last = _last_row(graph, node, rule)
        return None if last is None else node.outputs[last]
    if rule.family == "pointwise":
        return node.outputs[0] if len(node.outputs) == 1 else None
    assert rule.norm_form is not None
    ends = [place for place, ref in enumerate(rule.outputs) if ref.step == rule.norm_form.outer] or [0]
    return node.outputs[ends[0]] if int(node.types[ends[0]].width) <= MAX_NORMED else None


def _last_row(graph: Graph, node: Node, rule: Rule) -> int | None:
    form = row_form(decomposition(graph, node))
    return last_row(form, (*rule.inputs, *rule.output_names)) if form else None
