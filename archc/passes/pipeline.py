"""The pipeline, top to bottom.  Graphs are verified, and stages recorded, between passes, never in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from archc.ir.graph import Graph
from archc.ir.verifier import MalformedGraphError, verify_graph
from archc.passes.absorb import absorb_maps
from archc.passes.activate import join_activations
from archc.passes.beside import join_siblings
from archc.passes.bias import split_bias
from archc.passes.cache import plan_cache
from archc.passes.capacity import join_capacities
from archc.passes.chain import join_rows
from archc.passes.channels import pack_convolutions
from archc.passes.clean import drop_unused, merge_common
from archc.passes.context import Context
from archc.passes.convolve import join_convolutions
from archc.passes.dispatch import dispatch_experts
from archc.passes.distinct import name_keys_once
from archc.passes.factors import move_factors
from archc.passes.fold import fold_constants
from archc.passes.fuse import fuse
from archc.passes.hoist import hoist_invariants
from archc.passes.join import join_elementwise
from archc.passes.layout import normalise_layout
from archc.passes.loop_edge import rotate_loops
from archc.passes.losses import part_losses
from archc.passes.pack import pack_linears
from archc.passes.regroup import regroup_rows
from archc.passes.route import join_routers
from archc.passes.rows import join_row_moves
from archc.passes.shared import join_shared_experts
from archc.passes.sink import sink_pairs
from archc.passes.splits import join_splits, list_parts
from archc.passes.steps import part_steps
from archc.passes.views import move_views
from archc.passes.widen import join_wide_linears


@dataclass(frozen=True)
class Pass:
    """A named change of a graph, in place."""

    name: str
    run: Callable[[Graph, Context], None]


PASSES = (
    Pass("fold", fold_constants),
    Pass("common", merge_common),
    Pass("distinct", name_keys_once),
    Pass("steps", part_steps),
    Pass("hoist", hoist_invariants),
    Pass("sink", sink_pairs),
    Pass("unused", drop_unused),
    Pass("losses", part_losses),
    Pass("factors", move_factors),
    Pass("cache", plan_cache),
    Pass("layout", normalise_layout),
    Pass("shared", join_shared_experts),
    Pass("regroup", regroup_rows),
    Pass("pack", pack_linears),
    Pass("channels", pack_convolutions),
    Pass("dispatch", dispatch_experts),
    Pass("rows", join_row_moves),
    Pass("route", join_routers),
    Pass("capacity", join_capacities),
    Pass("absorb", absorb_maps),
    Pass("wide", join_wide_linears),
    Pass("bias", split_bias),
    Pass("loop_edge", rotate_loops),
    Pass("convolve", join_convolutions),
    Pass("fuse", fuse),
    Pass("activate", join_activations),
    Pass("views", move_views),
    Pass("chain", join_rows),
    Pass("join", join_elementwise),
    Pass("beside", join_siblings),
    Pass("splits", join_splits),
    Pass("clean", drop_unused),
    Pass("parts", list_parts),
)


def run_passes(graph: Graph, context: Context) -> Graph:
    """A fused copy of a graph; the graph stays as it is."""
    fused = graph.copy()
    for each in PASSES:
        _run(each, fused, context)
    return fused


# The reference stays op by op: these passes only tidy and place the cache.
REFERENCE_PASSES = tuple(
    each for each in PASSES if each.name in ("fold", "common", "hoist", "unused", "losses", "cache", "parts")
)


def run_reference_passes(graph: Graph, context: Context) -> Graph:
    """A copy of a graph as the reference is written from it."""
    reference = graph.copy()
    quiet = Context(context.rules, context.target)
    for each in REFERENCE_PASSES:
        _run(each, reference, quiet)
    return reference


def stages(graph: Graph, context: Context) -> Iterator[tuple[str, Graph]]:
    """The graph before and after every pass, each a copy of its own."""
    current = graph.copy()
    yield "frontend", graph
    for each in PASSES:
        current = current.copy()
        _run(each, current, context)
        yield each.name, current


def _run(each: Pass, graph: Graph, context: Context) -> None:
    """Run a pass and verify the graph."""
    each.run(graph, context)
    try:
        verify_graph(graph)
    except MalformedGraphError as error:
        done = ", ".join(p.name for p in PASSES[: PASSES.index(each)]) or "none"
        raise MalformedGraphError(f"after pass `{each.name}` (before it: {done}): {error}") from error
