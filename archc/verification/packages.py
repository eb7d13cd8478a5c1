"""A generated package against the interpreter: full, cached, padded, gradients, tokens, checkpoints."""

from __future__ import annotations

import importlib
import itertools
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from archc import compiler
from archc.codegen.emit import Origin, write_package
from archc.compiler import Compilation
from archc.ir.interpreter import Interpreter
from archc.ir.program import KEY_POSITIONS, POSITIONS
from archc.verification.cases import Case, cases, random_weights
from archc.verification.outcome import Outcome, distance, furthest, unequal
from archc.verification.stages import CHANCE, EXACT, FLOOR

GRADIENT = 1e-9  # float64: longer sums than the forward pass has
_numbers = itertools.count()


def check_package(compilation: Compilation) -> Iterator[Outcome]:
    """Outcomes for `Model` and `Reference` of the package, built into a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package = _import(compilation, folder)
        weights = random_weights(compilation.program.graph)
        checkpoint = folder / "checkpoint.safetensors"
        _save(weights, checkpoint)
        models = {
            name: (
                getattr(package, name).from_pretrained(checkpoint),
                getattr(package, name).from_pretrained(checkpoint, dtype=torch.float32),
            )
            for name in ("Model", "Reference")
        }
        for name, (exact, rounded) in models.items():
            yield from _check_forward(compilation, weights, name, exact, rounded)
            yield _check_checkpoint(name, exact, weights, folder / f"saved_{name}")
            if hasattr(exact, "new_cache"):
                yield from _check_cache(compilation, name, exact)
        if hasattr(models["Model"][0], "loss"):
            yield from _check_training(compilation, models["Model"][0], models["Reference"][0])
        if hasattr(models["Model"][0], "generate"):
            yield _check_greedy(compilation, models["Model"][0], models["Reference"][0])


def _import(compilation: Compilation, folder: Path) -> ModuleType:
    """Write the package under a name of its own and import it."""
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


def _call(model: Any, case: Case, dtype: torch.dtype, **options: Any) -> dict[str, Tensor]:
    """The model's outputs for a case, numbered."""
    given = [v for name, v in case.inputs.items() if name not in (POSITIONS, KEY_POSITIONS)]
    with torch.no_grad():
        result = model(*(v.to(dtype) if v.is_floating_point() else v for v in given), **options)
    return _numbered(result if isinstance(result, tuple) else (result,))


def _check_forward(
    compilation: Compilation, weights: dict[str, Tensor], name: str, exact: Any, rounded: Any
) -> Iterator[Outcome]:
    graph = compilation.program.graph
    narrow = {key: tensor.float() for key, tensor in weights.items()}
    for case in cases(graph):
        if case.shifted:
            continue
        truth = _interpret(compilation, weights, case)
        plain = furthest(_interpret(compilation, narrow, _narrow(case)), truth, case.padding)
        value = _call(exact, case, torch.float64, padding=case.padding)
        yield Outcome(name, "float64", case.name, furthest(value, truth, case.padding), EXACT)
        value = _call(rounded, case, torch.float32, padding=case.padding)
        limit = max(CHANCE * plain, FLOOR)
        yield Outcome(name, "float32", case.name, furthest(value, truth, case.padding), limit)


def _interpret(compilation: Compilation, weights: dict[str, Tensor], case: Case) -> dict[str, Tensor]:
    with torch.no_grad():
        outputs = Interpreter(weights).run(compilation.program.graph, case.inputs)
    return _numbered(outputs.values())


def _numbered(outputs: Iterable[Tensor]) -> dict[str, Tensor]:
    return {str(place): output for place, output in enumerate(outputs)}


def _narrow(case: Case) -> Case:
    inputs = {n: v.float() if v.is_floating_point() else v for n, v in case.inputs.items()}
    return Case(case.name, inputs, case.padding)


def _check_cache(compilation: Compilation, name: str, model: Any) -> Iterator[Outcome]:
    """In pieces and one by one with a cache: the same logits as all at once."""
    case = next(iter(cases(compilation.program.graph)))
    (tokens,) = (v for n, v in case.inputs.items() if n not in (POSITIONS, KEY_POSITIONS))
    length = tokens.shape[1]
    whole = model(tokens).detach()
    for pieces in ((length // 2, 1, 1, length - length // 2 - 2), (1,) * length):
        cache = model.new_cache(len(tokens), length)
        parts, start = [], 0
        for size in pieces:
            with torch.no_grad():
                parts.append(model(tokens[:, start : start + size], cache=cache))
            start += size
        manner = "in pieces" if len(set(pieces)) > 1 else "one by one"
        yield Outcome(name, "cache", manner, distance(torch.cat(parts, 1), whole), EXACT)


def _check_checkpoint(name: str, model: Any, weights: dict[str, Tensor], folder: Path) -> Outcome:
    """What is saved is what was loaded, bit for bit."""
    from safetensors.torch import load_file

    model.save_pretrained(folder)
    saved = load_file(folder / "model.safetensors")
    same = saved.keys() == weights.keys() and all(torch.equal(saved[n], weights[n]) for n in saved)
    return Outcome(name, "save_pretrained", "all tensors", 0.0 if same else 1.0, 0.0)


def _check_training(compilation: Compilation, model: Any, reference: Any) -> Iterator[Outcome]:
    """Loss and the gradients of all tensors of the checkpoint."""
    case = next(iter(cases(compilation.program.graph)))
    (tokens,) = (v for n, v in case.inputs.items() if n not in (POSITIONS, KEY_POSITIONS))
    labels = tokens.clone()
    labels[:, : tokens.shape[1] // 3] = -100
    losses, gradients = [], []
    for each in (model, reference):
        loss = each.loss(tokens, labels)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(_gradients(each))
    yield Outcome("Model", "loss", case.name, distance(losses[0], losses[1]), EXACT)
    worst = max(gradients[1], key=lambda n: distance(gradients[0][n], gradients[1][n]))
    error = distance(gradients[0][worst], gradients[1][worst])
    yield Outcome("Model", "gradients", worst, error, GRADIENT)


def _gradients(model: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for module in model.modules():
        for name, parts in module.stored().items() if hasattr(module, "stored") else ():
            gradient, row = getattr(module, name).grad, 0
            for stored in parts:
                part = gradient[row : row + stored.rows]
                found[stored.name] = part.t() if stored.transposed else part
                row += stored.rows
    return found


def _check_greedy(compilation: Compilation, model: Any, reference: Any) -> Outcome:
    case = next(iter(cases(compilation.program.graph)))
    (tokens,) = (v for n, v in case.inputs.items() if n not in (POSITIONS, KEY_POSITIONS))
    prompt = tokens[:, : max(1, tokens.shape[1] // 2)]
    chosen = [each.generate(prompt, max_new_tokens=8) for each in (model, reference)]
    return Outcome("Model", "greedy tokens", "8 new tokens", unequal(*chosen), 0.0)
