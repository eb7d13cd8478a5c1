"""The mistakes that attention invites, made in a package's text: each is found by what guards its road.

A bound of a window that is off by one, a soft cap that comes after the mask, a sink that counts twice, a
value rotated with a wrong partner: in the ops, where PyTorch computes, in rings of the cache, and in the
kernels of whole sequences, of their gradients and of single tokens.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from archc import compiler
from archc.codegen.emit import Origin, write_package
from archc.compiler import Compilation
from archc.verification.packages import check_package, stored_tensors
from tests.codegen.interpreter import interpreted
from tests.support import compile_model, distance, few, scramble

SPEC = Path(__file__).with_name("attention.arch")
WINDOW = {"layers": "1", "heads": "4", "masks": "[sliding(5)]"}
MODELS = {
    "all": ("capped_sinks", WINDOW),  # a window, a soft cap and sinks
    "window": ("alternating", WINDOW),
    "pairs": ("capped_sinks", {**WINDOW, "pairing": "interleaved"}),
    "latent": (
        "latent",
        {"layers": "1", "mask": "sliding(5)"},
    ),  # steps over what keys and values are made of
}
KERNELS = 1e-5  # float32
_numbers = itertools.count()


@dataclass(frozen=True)
class Trap:
    """A mistake in a file of a model's package: texts that are replaced, one after the other."""

    model: str
    file: str
    changes: tuple[tuple[str, str], ...]


def trap(model: str, file: str, *texts: str) -> Trap:
    return Trap(model, file, tuple(zip(texts[::2], texts[1::2], strict=True)))


@functools.cache
def compilation_of(model: str) -> Compilation:
    name, settings = MODELS[model]
    return compile_model(SPEC, name, settings)


@functools.cache
def files_of(model: str) -> dict[str, str]:
    compilation = compilation_of(model)
    return compiler.package_files(
        compilation, Origin(compilation.program.source, compilation.program.name, "cuda")
    )


def damaged(mistake: Trap) -> dict[str, str]:
    """A package's files with a mistake."""
    files = dict(files_of(mistake.model))
    for right, wrong in mistake.changes:
        assert right in files[mistake.file], right
        files[mistake.file] = files[mistake.file].replace(right, wrong)
    return files


def package_of(files: dict[str, str]) -> ModuleType:
    """Files written and imported, under a name of their own."""
    with tempfile.TemporaryDirectory() as folder:
        name = f"trapped_{next(_numbers)}"
        write_package(Path(folder) / name, files, force=True)
        sys.path.insert(0, folder)
        try:
            importlib.invalidate_caches()
            return importlib.import_module(name)
        finally:
            sys.path.remove(folder)


CAP = "    scores = 3.0 * torch.tanh(scores / 3.0)\n"
MASK = '    scores = scores.masked_fill(~visible, float("-inf"))\n'
SMALLER_RING = ("Ring(5,", "Ring(4,", "recent(5)", "recent(4)")
HALF = (
    "rotated[..., :pairs], rotated[..., pairs:]",
    "torch.cat([a * cos - b * sin, b * cos + a * sin], -1)",
)
PAIRS = (
    "rotated[..., 0::2], rotated[..., 1::2]",
    "torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)",
)
OPS = {("Model", "float64"), ("Reference", "float64")}
# What is then off, besides what follows from it, and the mistake.
VERIFIED = {
    "window of the op": (OPS, trap("all", "reference.py", "key > query - 5", "key >= query - 5")),
    "softcap of the op": (OPS, trap("all", "reference.py", CAP, "", MASK, MASK + CAP)),
    "sinks of the op": (
        OPS,
        trap(
            *("all", "reference.py", "[scores, column.to(scores.dtype)]"),
            "[scores, *[column.to(scores.dtype)] * 2]",
            *("weights[..., :-1]", "weights[..., :-2]"),
        ),
    ),
    "pairing of halves": (OPS, trap("all", "reference.py", HALF[0], PAIRS[0], HALF[1], PAIRS[1])),
    "pairing of neighbours": (OPS, trap("pairs", "reference.py", PAIRS[0], HALF[0], PAIRS[1], HALF[1])),
    "window of the mask": (
        {("Model", "float64")},
        trap("window", "runtime.py", "key > query - window", "key >= query - window"),
    ),
    "ring of Model": ({("Model", "cache")}, trap("all", "model.py", *SMALLER_RING)),
    "ring of Reference": ({("Reference", "cache")}, trap("all", "reference.py", *SMALLER_RING)),
    "window of several tokens": (
        {("Model", "cache"), ("Reference", "cache")},
        trap("all", "runtime.py", "min(self.length, length - 1)", "min(self.length, length - 2)"),
    ),
}


def outcomes_off(files: dict[str, str], model: str) -> set[tuple[str, str]]:
    """What `archc verify` finds off in a package of these files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "package_files", lambda *_: files)
        found = list(check_package(compilation_of(model)))
    return {(outcome.subject, outcome.check) for outcome in found if not outcome.holds}


@pytest.mark.parametrize("name", VERIFIED)
def test_verify_finds(name: str) -> None:
    off, mistake = VERIFIED[name]
    found = outcomes_off(damaged(mistake), mistake.model)
    assert off <= found


@pytest.mark.parametrize("model", MODELS)
def test_verify_finds_nothing_else(model: str) -> None:
    assert outcomes_off(files_of(model), model) == set()


PIECES = {
    "first key of a piece": trap("all", "runtime.py", "position - window + 1", "position - window + 2"),
    "window of pieces": trap("all", "kernels.py", "span.pieces(window=5", "span.pieces(window=4"),
    "window of pieces with a mask": trap(
        "window", "kernels.py", "span.pieces(window=5", "span.pieces(window=4"
    ),
}


def logits_apart(package: ModuleType, length: int, dtype: torch.dtype) -> float:
    """`Model`'s logits from `Reference`'s in float64."""
    model, reference = both_of(package, dtype)
    with torch.no_grad():
        return distance(model(tokens(length)), reference(tokens(length)))


def both_of(package: ModuleType, dtype: torch.dtype) -> tuple[Any, Any]:
    """`Model` in a dtype and `Reference` in float64, with the same weights."""
    with tempfile.TemporaryDirectory() as folder:
        reference = package.Reference(dtype=torch.float64)
        scramble(reference)
        reference.save_pretrained(folder)
        return package.Model.from_pretrained(folder, dtype=dtype), reference


def tokens(length: int) -> Tensor:
    return torch.randint(0, 50, (2, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", PIECES)
def test_pieces_find(name: str) -> None:
    assert logits_apart(package_of(damaged(PIECES[name])), 150, torch.float64) > 1e-6


@pytest.mark.parametrize("model", MODELS)
def test_pieces_find_nothing_else(model: str) -> None:
    assert logits_apart(package_of(files_of(model)), 150, torch.float64) < 1e-12


SCORES = 'tl.dot(a, tl.trans(b), input_precision="ieee") * 0.3333333333333333'
SEEN = '        score = tl.where(seen, score, float("-inf"))\n'
STEP_CAP = "        score = 3.0 * tanh(score / 3.0)\n"
STEP_MASK = "        score = tl.where(seen[None, :], score, -3.0e38)\n"
HALVES = (
    *("tl.load(source + pair)", "tl.load(source + 2 * pair)"),
    *("tl.load(source + 4 + pair)", "tl.load(source + 2 * pair + 1)"),
)
NEIGHBOURS = ("tl.reshape(tl.load(", "tl.permute(tl.reshape(tl.load(", "4, 2))", "2, 4), (0, 2, 1)))")
# The road on which each shows, and the mistake.
INTERPRETED = {
    "window of tiles": ("whole", trap("all", "kernels.py", "(key > query - 5)", "(key >= query - 5)")),
    "softcap of tiles": (
        "whole",
        trap(
            *("all", "kernels.py", f"4.32808512266689 * tanh({SCORES})", SCORES),
            *(SEEN, f"{SEEN}        score = 4.32808512266689 * tanh(score)\n"),
        ),
    ),
    "sinks of tiles": (
        "whole",
        trap("all", "kernels.py", "tl.full([QUERIES], 1.0,", "tl.full([QUERIES], 2.0,"),
    ),
    "pairing of halves": ("whole", trap("all", "kernels.py", *HALVES)),
    "pairing of neighbours": ("whole", trap("pairs", "kernels.py", *NEIGHBOURS)),
    "softcap of a gradient": (
        "gradients",
        trap("all", "kernels.py", "dscore *= 1.0 - (score *", "dscore *= 1.0 - 0 * (score *"),
    ),
    "sinks of a gradient": ("gradients", trap("all", "kernels.py", "dsinks = -(", "dsinks = -2 * (")),
    "pairing of a gradient": (
        "gradients",
        trap(
            "all",
            "kernels.py",
            "tl.store(target + 4 + pair, db * cos - da * sin)",
            "tl.store(target + 4 + pair, db * cos + da * sin)",
        ),
    ),
    "window of a step": (
        "steps",
        trap("all", "kernels.py", "oldest = position - 4", "oldest = position - 3"),
    ),
    "softcap of a step": ("steps", trap("all", "kernels.py", STEP_CAP, "", STEP_MASK, STEP_MASK + STEP_CAP)),
    "sinks of a step": (
        "steps",
        trap("all", "kernels.py", "split == 0, tl.full([16], 1.0,", "split == 0, tl.full([16], 2.0,"),
    ),
    "pairing of a latent": (
        "whole",
        trap(
            *(
                "latent",
                "kernels.py",
                "tl.load(source + 10 + 2 + pair)",
                "tl.load(source + 10 + 2 * pair + 1)",
            ),
            *("tl.load(source + 10 + pair)", "tl.load(source + 10 + 2 * pair)"),
        ),
    ),
    "pairing of a latent's queries": (
        "whole",
        trap(
            "latent",
            "kernels.py",
            "target + 8 + 2 + pair, b * cos + a * sin",
            "target + 8 + 2 + pair, a * cos + b * sin",
        ),
    ),
    "window of a latent step": (
        "steps",
        trap("latent", "kernels.py", "oldest = position - 4", "oldest = position - 3"),
    ),
    "own key of a latent step": (
        "steps",
        trap(
            "latent", "kernels.py", "if (begin <= last) & (last < end)", "if (begin <= last) & (last < begin)"
        ),
    ),
    "rotated keys of a latent step": (
        "steps",
        trap("latent", "kernels.py", "score = tl.dot(q_rest,", "score = 0 * tl.dot(q_rest,"),
    ),
    "new rotated key of a latent step": (
        "steps",
        trap("latent", "kernels.py", "+ rest, new_rest", "+ rest, 0 * new_rest"),
    ),
}


def kernels_apart(package: ModuleType, road: str) -> float:
    """What kernels make of the model in float32 from `Reference` in float64, on one road."""
    model, reference = both_of(package, torch.float32)
    given = tokens(17)
    if road == "gradients":
        for each in (model, reference):
            each.loss(given, given).backward()
        found, truth = (dict(stored_tensors(each, gradients=True)) for each in (model, reference))
        return max(distance(found[name], truth[name]) for name in truth)
    with torch.no_grad():
        found = model(given) if road == "whole" else _in_steps(model, given)
        return distance(found, reference(given))


def _in_steps(model: Any, given: Tensor) -> Tensor:
    """Logits of tokens that come one by one after two, all state on the device."""
    cache = model.new_cache(*given.shape)
    parts = [model(given[:, :2], cache=cache)]
    cache.start_steps()
    parts += [model(token, cache=cache) for token in given[:, 2:].split(1, 1)]
    return torch.cat(parts, 1)


def test_mistakes_can_be_made_in_kernels() -> None:
    """Also those that the default suite does not run: texts of kernels change, and a mistake's with them."""
    for _, mistake in INTERPRETED.values():
        assert damaged(mistake) != files_of(mistake.model)


@pytest.mark.parametrize("name", few(INTERPRETED, 6))
@interpreted
def test_kernels_are_found(name: str) -> None:
    road, mistake = INTERPRETED[name]
    assert kernels_apart(package_of(damaged(mistake)), road) > 10 * KERNELS


@pytest.mark.parametrize("road", ["whole", "gradients", "steps"])
@pytest.mark.parametrize("model", ["all", "pairs", "latent"])
@interpreted
def test_nothing_else_is_found_in_kernels(model: str, road: str) -> None:
    assert kernels_apart(package_of(files_of(model)), road) < KERNELS
