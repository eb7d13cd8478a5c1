"""Every stage of the pipeline against the graph before any pass, on the interpreter.

In float64 a pass may not change anything beyond the order of additions, or no more than the unfused graph
does when what it is given changes by its rounding.  In float32 a stage may be no further from the float64
truth than a small factor of chance times what the unfused graph is, or what that moves by such rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from itertools import pairwise
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor

from archc.ir.graph import Graph
from archc.ir.hashing import structural_hash
from archc.ir.interpreter import Interpreter
from archc.ir.node import Node
from archc.ir.program import Program
from archc.passes.context import Context
from archc.passes.pipeline import stages
from archc.verification.cases import Case, cases, random_weights
from archc.verification.conditioning import furthest_moved
from archc.verification.outcome import Outcome, distance, furthest

EXACT = 1e-11  # float64: rounding of sums taken in another order
CHANCE = 4.0  # float32: errors are random, and a softmax between near equals makes them larger
FLOOR = 1e-7


def check_stages(program: Program, context: Context, each_pass: bool) -> Iterator[Outcome]:
    """Outcomes for every stage, or for the last one only."""
    graphs = list(stages(program.graph, context))
    chosen = [
        (name, graph, structural_hash(graph)) for name, graph in (graphs[1:] if each_pass else graphs[-1:])
    ]
    for outliers in (False, True):
        weights = random_weights(program.graph, outliers)
        for case in cases(program.graph):
            yield from _check_case(graphs, chosen, weights, case, outliers)


def _check_case(
    graphs: list[tuple[str, Graph]],
    chosen: list[tuple[str, Graph, str]],
    weights: dict[str, Tensor],
    case: Case,
    outliers: bool,
) -> Iterator[Outcome]:
    """What a pass leaves as it was, as most do, is not run again."""
    original = graphs[0][1]
    label = f"{case.name}, outlier channels" if outliers else case.name
    truth = _run(original, weights, case, torch.float64)
    if not is_finite(truth, case):
        if not outliers:  # such weights take it beyond what even float64 holds
            detail = _first_without_number(original, weights, case)
            yield Outcome("before any pass", "float64", label, nan, EXACT, detail)
        return
    plain = furthest(_run(original, weights, case, torch.float32), truth, case.padding)
    moved = cache(partial(_moved, original, weights, case, truth))
    errors: dict[str, list[float]] = {}
    for name, graph, structure in chosen:
        repeats = structure in errors
        if not repeats:
            errors[structure] = [
                furthest(_run(graph, weights, case, dtype), truth, case.padding)
                for dtype in (torch.float64, torch.float32)
            ]
        exact, rounded = errors[structure]
        limit = EXACT if exact <= EXACT else max(EXACT, moved(torch.float64))
        detail = "" if exact <= limit else _first_difference(graphs, weights, case)
        yield Outcome(f"after {name}", "float64", label, exact, limit, detail, repeats)
        off = exact > limit
        if isfinite(plain):  # else the unfused graph itself leaves the range of float32
            limit = max(CHANCE * plain, FLOOR)
            # The unfused graph may have come near the truth by luck, as with one token.
            if rounded > limit and not off:
                limit = max(limit, CHANCE * moved(torch.float32))
            yield Outcome(f"after {name}", "float32", label, rounded, limit, repeats=repeats)


def is_finite(values: dict[str, Tensor], case: Case) -> bool:
    """Whether a case's values are numbers, those of padding apart."""
    return isfinite(furthest(values, values, case.padding))


def _run(graph: Graph, weights: dict[str, Tensor], case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """What a graph computes, the terms of the loss included."""
    interpreter = Interpreter(cast(weights, dtype))
    with torch.inference_mode():
        outputs = interpreter.run(graph, cast(case.inputs, dtype))
    return outputs | {f"loss {name}": term for name, term in interpreter.losses.items()}


def _moved(
    graph: Graph, weights: dict[str, Tensor], case: Case, truth: dict[str, Tensor], dtype: torch.dtype
) -> float:
    """How far a graph's values move in float64 when all it is given does so by a dtype's rounding."""

    def run(moved: Case, near: dict[str, Tensor]) -> dict[str, Tensor]:
        return _run(graph, near, moved, torch.float64)

    return furthest_moved(run, case, weights, truth, dtype, case.padding)


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors with fractions in a dtype, those of whole numbers as they are."""
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}


def _first_difference(graphs: list[tuple[str, Graph]], weights: dict[str, Tensor], case: Case) -> str:
    """The first pass that changes the outputs, and the first op after it whose value is not there before."""
    truth = _run(graphs[0][1], weights, case, torch.float64)
    for (_, before), (name, after) in pairwise(graphs):
        if furthest(_run(after, weights, case, torch.float64), truth, case.padding) > EXACT:
            return f"pass `{name}`{_first_op(before, after, weights, case)}"
    return ""


def _first_without_number(graph: Graph, weights: dict[str, Tensor], case: Case) -> str:
    """The first op that gives no number, as 0 / 0 is none: attention takes even padding's to other tokens."""
    found: list[Node] = []

    def observe(_part: Graph, node: Node, _indices: Mapping[str, int], outputs: tuple[Any, ...]) -> None:
        if not found and any(isinstance(value, Tensor) and bool(value.isnan().any()) for value in outputs):
            found.append(node)

    with torch.inference_mode():
        Interpreter(weights, observe=observe).run(graph, case.inputs)
    return f"{_named(found[0])} gives no number" if found else ""


def _named(node: Node) -> str:
    place = f" ({node.span.line_reference})" if node.span else ""
    return f"op `{node.op.name}`{place}"


def _first_op(before: Graph, after: Graph, weights: dict[str, Tensor], case: Case) -> str:
    old = _values(before, weights, case)
    for key, (node, value) in _values(after, weights, case).items():
        if isinstance(value, Tensor) and _is_new(key, value, old):
            return f", {_named(node)}"
    return ""


def _values(graph: Graph, weights: dict[str, Tensor], case: Case) -> dict[tuple[Any, ...], tuple[Node, Any]]:
    """Every named value, by its graph, loop indices, name and how often the name was seen."""
    seen: dict[tuple[Any, ...], tuple[Node, Any]] = {}

    def observe(part: Graph, node: Node, indices: Mapping[str, int], outputs: tuple[Any, ...]) -> None:
        for name, value in zip(node.names, outputs, strict=False):
            if name:
                key = (part.name, tuple(indices.items()), name)
                count = sum(known[:3] == key for known in seen)
                seen[(*key, count)] = (node, value)

    with torch.inference_mode():
        Interpreter(weights, observe=observe).run(graph, case.inputs)
    return seen


def _is_new(key: tuple[Any, ...], value: Tensor, before: Mapping[tuple[Any, ...], tuple[Node, Any]]) -> bool:
    """Whether a value's name was there before, but none of its values is this one."""
    rivals = [old for known, (_, old) in before.items() if known[:3] == key[:3] and isinstance(old, Tensor)]
    same_shape = [old for old in rivals if old.shape == value.shape and old.dtype == value.dtype]
    return bool(same_shape) and all(distance(value, old) > EXACT for old in same_shape)
