"""What must hold for a batch of sequences of several lengths: each is computed as if it were alone.

In float64, with padding on the left, on the right and in between, at once and in pieces through a cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from archc.compiler import Compilation
from archc.ir.decoding import depends_on_length
from archc.ir.graph import Graph
from archc.ir.node import Value
from archc.ir.program import given_inputs, sequences
from archc.verification.cases import Case, cases, random_weights
from archc.verification.outcome import distance
from archc.verification.packages import import_package, through_cache

EXACT = 1e-10
ENDS = {"token_after", "reverse_tokens"}  # take a sequence to end where padding begins


def ragged(compilation: Compilation) -> Iterator[str]:
    """What is off in a package's models; none of it where positions depend on lengths."""
    graph = compilation.program.graph
    if depends_on_length(graph):
        return
    with tempfile.TemporaryDirectory() as folder:
        package = import_package(compilation, Path(folder))
        path = Path(folder) / "checkpoint.safetensors"
        save_file({name: each.contiguous() for name, each in random_weights(graph).items()}, path)
        models = [getattr(package, name).from_pretrained(path).eval() for name in ("Model", "Reference")]
    ends = any(node.op.name in ENDS for part in graph.walk() for node in part.nodes())
    for place, where in enumerate(("left", "right") if ends else ("left", "right", "between")):
        case = _padded(graph, next(iter(cases(graph))), where, seed=place)
        with torch.no_grad():
            rows = [_outputs(models[1], _alone(graph, case, row)) for row in range(len(case.given[0]))]
            for model in models:
                name = f"{type(model).__module__.rpartition('.')[2]}, padding {where}"
                yield from _whole(graph, model, case, rows, name)
                if hasattr(model, "new_cache"):
                    yield from _pieces(model, case, rows, name)


def _padded(graph: Graph, case: Case, where: str, seed: int) -> Case:
    """A case with random padding in each of its sequences."""
    generator = torch.Generator().manual_seed(seed)
    options = {}
    for sequence in sequences(graph):
        value = next(v for v in given_inputs(graph) if graph.type(v).shape[:2] == sequence.dims)
        batch, length = case.inputs[graph.node(value).attributes["name"]].shape[:2]
        places, cuts = torch.arange(length), torch.randint(1, length + 1, (batch, 1), generator=generator)
        real = torch.rand(batch, length, generator=generator) < 0.6 if where == "between" else places < cuts
        real[~real.any(1), -1] = True
        options[sequence.called("padding")] = real = real.flip(1) if where == "left" else real
    return Case(where, case.inputs, case.grown, options, real)


def _alone(graph: Graph, case: Case, row: int) -> list[Tensor]:
    """What a model is given for one of the sequences, without padding."""
    return [
        _real(graph, value, x[row : row + 1], case, row)
        for value, x in zip(given_inputs(graph), case.given, strict=True)
    ]


def _real(graph: Graph, value: Value, x: Tensor, case: Case, row: int) -> Tensor:
    """A row's values without those of padding, along each axis that is of tokens."""
    for sequence in sequences(graph):
        real = case.options[sequence.called("padding")][row].nonzero()[:, 0]
        for axis, dim in enumerate(graph.type(value).shape):
            if axis and dim == sequence.dims[1]:
                x = x.index_select(axis, real)
    return x


def _outputs(model: Any, given: list[Tensor], **options: Tensor) -> tuple[Tensor, ...]:
    result = model(*given, **options)
    return result if isinstance(result, tuple) else (result,)


def _whole(graph: Graph, model: Any, case: Case, rows: list[tuple[Tensor, ...]], name: str) -> Iterator[str]:
    found = _outputs(model, case.given, **case.options)
    for row, alone in enumerate(rows):
        for (output, value), x, truth in zip(graph.outputs, found, alone, strict=True):
            error = distance(_real(graph, value, x[row : row + 1], case, row), truth)
            if not error <= EXACT:
                yield f"{name}, {output} of sequence {row}: {error:.1e}"


def _pieces(model: Any, case: Case, rows: list[tuple[Tensor, ...]], name: str) -> Iterator[str]:
    """A prompt, single tokens, some more: with padding in each."""
    length = case.tokens.shape[1]
    some = length // 3
    assert case.padding is not None
    found = through_cache(model, case, (some, *[1] * some, length - 2 * some) if some else (length,))
    for row, alone in enumerate(rows):
        for place, truth in enumerate(alone):
            error = distance(found[str(place)][row : row + 1, case.padding[row]], truth)
            if not error <= EXACT:
                yield f"{name}, in pieces, output {place} of sequence {row}: {error:.1e}"
