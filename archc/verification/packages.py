"""A package against the interpreter: full, cached, padded, packed, gradients, tokens, checkpoints."""

from __future__ import annotations

import importlib
import inspect
import itertools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from archc import compiler
from archc.codegen.emit import Origin, write_package
from archc.codegen.names import argument
from archc.compiler import Compilation
from archc.ir.decoding import depends_on_length
from archc.ir.graph import Graph
from archc.ir.interpreter import Interpreter
from archc.ir.logits import vocabulary_of
from archc.ir.program import POSITIONS, are_positions, front_of, packs_documents
from archc.verification.cases import Case, cases, random_weights
from archc.verification.conditioning import moved_models
from archc.verification.outcome import Outcome, distance, furthest, unequal
from archc.verification.stages import CHANCE, EXACT, FLOOR, is_finite
from archc.verification.truths import Truths, ends, joined, numbered

GRADIENT = 1e-9  # float64: longer sums than the forward pass has
SMALL = 1e-3  # of the largest gradient: what is smaller is held to that size
_LOSS = "loss"  # among gradients, which have the names of tensors
_numbers = itertools.count()


def check_package(compilation: Compilation) -> Iterator[Outcome]:
    """Outcomes for `Model` and `Reference` of the package, built into a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package = import_package(compilation, folder)
        weights = random_weights(compilation.program.graph)
        truths = Truths(compilation, weights)
        checkpoint = folder / "checkpoint.safetensors"
        _save(weights, checkpoint)
        models = {
            name: (
                getattr(package, name).from_pretrained(checkpoint).eval(),
                getattr(package, name).from_pretrained(checkpoint, dtype=torch.float32).eval(),
            )
            for name in ("Model", "Reference")
        }
        for name, (exact, rounded) in models.items():
            yield from _check_forward(truths, name, exact, rounded)
            if packs_documents(compilation.program.graph):
                yield _check_documents(compilation, name, exact)
            yield _check_checkpoint(name, exact, weights, folder / f"saved_{name}")
            if hasattr(exact, "new_cache"):
                yield from _check_cache(truths, name, exact)
        if hasattr(models["Model"][0], "log_probs"):
            yield from _check_training(compilation, models["Model"][0], models["Reference"][0])
        if hasattr(models["Model"][0], "loss"):
            yield from _check_terms(
                compilation, weights, {name: exact for name, (exact, _) in models.items()}
            )
        if hasattr(models["Model"][0], "generate"):
            yield from _check_greedy(compilation, models["Model"][0], models["Reference"][0])


def import_package(compilation: Compilation, folder: Path) -> ModuleType:
    """Write a compiled model's package under a folder and import it, under a name of its own."""
    parent = f"archc_verified_{next(_numbers)}"
    program = compilation.program
    files = compiler.package_files(compilation, Origin(program.source, program.name, "cuda"))
    write_package(folder / parent / program.name, files, force=True)
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        return importlib.import_module(f"{parent}.{program.name}")
    finally:
        sys.path.remove(str(folder))


def _save(weights: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)


def _given(case: Case, front: int) -> Case:
    """A case as a package is given it: without the learned tokens, which it puts in front itself."""
    if not front:
        return case
    places = case.inputs[POSITIONS]
    of_tokens = {n: v for n, v in case.inputs.items() if v.shape[:2] == places.shape}
    inputs = {**case.inputs, **{name: value[:, front:] for name, value in of_tokens.items()}}
    if case.padding is None:
        return replace(case, inputs=inputs)
    real = case.padding[:, front:] & (places[:, front:] >= front)
    return replace(case, inputs=inputs, options={"padding": real}, padding=real)


def _call(model: Any, case: Case, dtype: torch.dtype, **options: Any) -> dict[str, Tensor]:
    """The model's outputs for a case, numbered."""
    with torch.no_grad():
        result = model(*(v.to(dtype) if v.is_floating_point() else v for v in case.given), **options)
    return outputs(result)


def outputs(result: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
    """What a model returns, numbered."""
    return numbered(result if isinstance(result, tuple) else (result,))


def _check_forward(truths: Truths, name: str, exact: Any, rounded: Any) -> Iterator[Outcome]:
    for case in cases(truths.graph):
        if case.shifted:
            continue
        given = _given(case, truths.front)
        truth = truths.whole(case)
        plain = furthest(truths.whole(case, torch.float32), truth, given.padding)
        value = _call(exact, given, torch.float64, **given.options)
        error, limit = furthest(value, truth, given.padding), EXACT
        if error > limit:
            limit = max(limit, truths.moved(case, torch.float64, given.padding))
        off = error > limit
        yield Outcome(name, "float64", case.name, error, limit)
        if not isfinite(plain) and is_finite(truth, given):
            continue  # the unfused graph itself leaves the range of float32
        value = _call(rounded, given, torch.float32, **given.options)
        error, limit = furthest(value, truth, given.padding), max(CHANCE * plain, FLOOR)
        if error > limit and not off:  # the unfused graph may have come near the truth by luck
            limit = max(limit, CHANCE * truths.moved(case, torch.float32, given.padding))
        yield Outcome(name, "float32", case.name, error, limit)


def _check_documents(compilation: Compilation, name: str, model: Any) -> Outcome:
    """Documents that share a row: the same outputs as each has in a row by itself."""
    case = _first_given(compilation)
    documents = documents_of(case)
    packed = _call(model, case, torch.float64, documents=documents)
    worst = 0.0
    for row, numbers in enumerate(documents):
        for number in numbers.unique():
            own = numbers == number
            alone = replace(case, inputs={n: v[row : row + 1, own] for n, v in case.inputs.items()})
            parts = {n: output[row : row + 1, own] for n, output in packed.items()}
            worst = max(worst, furthest(parts, _call(model, alone, torch.float64)))
    return Outcome(name, "documents", case.name, worst, EXACT)


def documents_of(case: Case) -> Tensor:
    """A number for each token of a case, so that some three documents share a row, most of several tokens."""
    batch, length = case.tokens.shape[:2]
    return (torch.arange(length) + torch.arange(batch)[:, None]) // max(length // 3, 2)


def _check_cache(truths: Truths, name: str, model: Any) -> Iterator[Outcome]:
    """In pieces and one by one with a cache: the same outputs as all at once.

    Where positions mean something else in a longer sequence, they are those of the interpreter in pieces.
    """
    by_length = depends_on_length(truths.graph)
    for full in cases(truths.graph):
        case = _given(full, truths.front)
        length = case.tokens.shape[1]
        if case.shifted or length < 4:
            continue
        whole = _call(model, case, torch.float64, **case.options)
        several = tuple(filter(None, (length // 2, 1, 1, length - length // 2 - 2)))
        for pieces in (several, (1,) * length):
            parts = through_cache(model, case, pieces)
            manner = "in pieces" if len(set(pieces)) > 1 else "one by one"
            truth = truths.in_pieces(full, pieces) if by_length else whole
            error, limit = furthest(parts, truth, case.padding), EXACT
            if error > limit:
                limit = max(limit, truths.moved(full, torch.float64, case.padding))
            yield Outcome(name, "cache", f"{case.name}, {manner}", error, limit)


@torch.inference_mode()
def through_cache(model: Any, case: Case, pieces: Sequence[int]) -> dict[str, Tensor]:
    """The outputs, numbered, for tokens that reach the cache in pieces, with the padding in each."""
    options: dict[str, Tensor | None] = dict(case.options)
    cache = model.new_cache(*case.tokens.shape[:2])
    parts: list[dict[str, Tensor]] = []
    for start, end in ends(pieces):
        for name, padding in case.options.items():
            if padding is case.padding:
                options[name] = None if bool(padding[:, start:end].all()) else padding[:, start:end]
        parts.append(outputs(model(*case.piece(start, end), cache=cache, **options)))
    return joined(parts)


def _first_given(compilation: Compilation) -> Case:
    """The first case, as a package is given it."""
    graph = compilation.program.graph
    return _given(next(iter(cases(graph))), front_of(graph))


def _check_checkpoint(name: str, model: Any, weights: dict[str, Tensor], folder: Path) -> Outcome:
    """What is saved is what was loaded, bit for bit."""
    from safetensors.torch import load_file

    model.save_pretrained(folder)
    saved = load_file(folder / "model.safetensors")
    same = saved.keys() == weights.keys() and all(torch.equal(saved[n], weights[n]) for n in saved)
    return Outcome(name, "save_pretrained", "all tensors", 0.0 if same else 1.0, 0.0)


def _check_training(compilation: Compilation, model: Any, reference: Any) -> Iterator[Outcome]:
    """Loss and the gradients of all tensors of the checkpoint."""
    case = _first_given(compilation)
    labels = _labels(compilation.program.graph, case)
    if labels.shape[1] == 1:  # a single token has no loss
        return
    labels[:, : labels.shape[1] // 3] = -100
    truth, found = (_trained(each, case, labels) for each in (reference, model))
    errors = _off(found, truth)
    limits = {name: EXACT if name == _LOSS else GRADIENT for name in errors}
    if any(errors[name] > limits[name] for name in errors):
        moved = [_off(_trained(near, case, labels), truth) for near in moved_models(reference)]
        limits = {n: max(limit, CHANCE * max(each[n] for each in moved)) for n, limit in limits.items()}
    worst = max((name for name in errors if name != _LOSS), key=lambda name: errors[name] / limits[name])
    yield Outcome("Model", "loss", case.name, errors[_LOSS], limits[_LOSS])
    yield Outcome("Model", "gradients", worst, errors[worst], limits[worst])


def _trained(model: Any, case: Case, labels: Tensor) -> dict[str, Tensor]:
    """A model's loss, and its gradients by the checkpoint's names."""
    loss = model.loss(*case.given, labels)
    loss.backward()
    return {_LOSS: loss.detach(), **dict(stored_tensors(model, gradients=True))}


def _off(found: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """How far the loss and each gradient are from the truth.

    A gradient that is next to nothing beside the others may be rounding alone.
    """
    norms = {name: float(gradient.norm()) for name, gradient in truth.items() if name != _LOSS}
    least = SMALL * max(norms.values())
    errors = {
        name: float((found[name] - truth[name]).norm()) / (max(norms[name], least) or 1.0) for name in norms
    }
    return {_LOSS: distance(found[_LOSS], truth[_LOSS]), **errors}


def _labels(graph: Graph, case: Case) -> Tensor:
    """A case's tokens as labels: of more rows than are predicted, those beyond are others."""
    return case.tokens % vocabulary_of(graph)


def _check_terms(
    compilation: Compilation, weights: dict[str, Tensor], models: dict[str, Any]
) -> Iterator[Outcome]:
    """The terms that a spec adds to the loss, with padding and without."""
    graph = compilation.program.graph
    if not any(part.losses() for part in graph.walk()):
        return
    for full in cases(graph):
        case = _given(full, front_of(graph))
        if case.shifted or case.tokens.shape[1] == 1:
            continue
        interpreter = Interpreter(weights)
        with torch.no_grad():
            interpreter.run(graph, full.inputs)
            for name, model in models.items():
                labels = [_labels(graph, case)] if hasattr(model, "log_probs") else []
                terms = model.loss(*case.given, *labels, apart=True, **case.options)
                terms.pop("cross_entropy", None)
                yield Outcome(
                    name, "terms of the loss", case.name, furthest(terms, interpreter.losses), EXACT
                )


def given_tokens(model: Any, tokens: Tensor, encoded: Tensor | None) -> tuple[Tensor | None, ...]:
    """What a model takes before its options: an encoder's tokens first, None once a cache holds them."""
    kinds = inspect.signature(model.hidden).parameters.values()
    others = sum(kind.kind is kind.POSITIONAL_OR_KEYWORD for kind in kinds) - 1
    return (*[encoded] * others, tokens)


def stored_tensors(model: Any, gradients: bool = False) -> Iterator[tuple[str, Tensor]]:
    """A generated model's tensors, or their gradients, by their names and in the layout of the checkpoint."""
    checkpoint = sys.modules[f"{type(model).__module__.rpartition('.')[0]}.checkpoint"]
    for module in model.modules():
        for name, parts in module.stored().items() if hasattr(module, "stored") else ():
            parameter = getattr(module, name)
            held = parameter.grad if gradients else parameter.detach()
            if held is None:
                continue  # it only chooses: no gradient comes to it
            for stored, part in checkpoint.rows_of(held, parts):
                joined = getattr(stored, "joined", None)
                yield stored.name, part if joined is None else checkpoint.in_file(part, joined)


def _check_greedy(compilation: Compilation, model: Any, reference: Any) -> Iterator[Outcome]:
    case = _first_given(compilation)
    length = case.tokens.shape[1]
    half = max(1, length // 2)
    new = min(8, length - half)  # a learned table may have no more positions
    if new == 0:
        return
    prompt = {name: value for name, value in case.inputs.items() if not are_positions(name)}
    prompt |= {name: prompt[name][:, :half] for name in case.grown}
    name = case.grown[0]
    options = {} if compilation.program.start is None else {argument(name): prompt[name]}
    given = [value for each, value in prompt.items() if each != name or not options]
    chosen = [each.generate(*given, max_new_tokens=new, **options) for each in (model, reference)]
    yield Outcome("Model", "greedy tokens", f"{new} new tokens", unequal(*chosen), 0.0)
