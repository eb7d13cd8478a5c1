"""What tests share: building a package and importing it, random checkpoints, distances, folders."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from click.testing import Result
from torch import Tensor, nn

from archc import compiler
from archc.compiler import Compilation, Spec
from archc.target import TARGETS
from archc.verification.packages import import_package

ROOT = Path(__file__).resolve().parent.parent
SPECS = ROOT / "specs"

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")


def compile_model(
    spec: Path | str, model: str, settings: Mapping[str, str] | None = None, target: str = "cuda"
) -> Compilation:
    """Compile one model of a spec, given as a file or as its text."""
    if isinstance(spec, Path) and spec.parent == SPECS and not settings:
        return _compile_own(spec, model, target)
    return _compile(spec, model, settings, target)


def _compile(spec: Path | str, model: str, settings: Mapping[str, str] | None, target: str) -> Compilation:
    read = compiler.read_spec_text(spec) if isinstance(spec, str) else read_spec(spec)
    (program,) = compiler.lower_models(read, [model], settings)
    return compiler.compile_program(program, read.rules, TARGETS[target])


@functools.lru_cache(maxsize=64)
def _compile_own(spec: Path, model: str, target: str) -> Compilation:
    """A spec of archc's own, which many tests compile."""
    return _compile(spec, model, None, target)


def read_spec(path: Path) -> Spec:
    """A spec file; those of this repository, which many tests read, are read once."""
    return _read_own(path) if ROOT in path.parents else compiler.read_spec_file(path)


@functools.cache
def _read_own(path: Path) -> Spec:
    return compiler.read_spec_file(path)


def build(
    spec: Path | str,
    model: str,
    folder: Path,
    settings: Mapping[str, str] | None = None,
    target: str = "cuda",
) -> ModuleType:
    """Build a model's package and import it: a module with `Model` and `Reference`."""
    return import_package(compile_model(spec, model, settings, target), folder)


def distance(value: Tensor, truth: Tensor) -> float:
    """|value - truth| / |truth|, in float64."""
    truth = truth.detach().double()
    return float((value.detach().double() - truth).norm() / truth.norm())


def scramble(model: nn.Module, seed: int = 0, spread: float = 0.3) -> None:
    """Random weights of a size at which mistakes show: norms near 1, all else normal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else spread * noise)


def check_refused(result: Result, message: str, status: int = 1) -> None:
    """A command ends with a sentence that says what is wrong."""
    assert result.exit_code == status, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def few(values: Iterable[Any], most: int) -> list[ParameterSet]:
    """Parameters of a test, of which so many, spread evenly, run by default; the slow suite has all."""
    values = [value if isinstance(value, tuple) else (value,) for value in values]
    default = {round(place * (len(values) - 1) / max(most - 1, 1)) for place in range(most)}
    return [
        pytest.param(*value, marks=() if place in default else pytest.mark.slow)
        for place, value in enumerate(values)
    ]


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all test processes of a run have in common."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    folder.mkdir(exist_ok=True)
    return folder


def compile_quickly(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let native code be compiled in a third of the time: not optimised, which changes its speed alone.

    It is kept in the folder.
    """
    script = folder / f"c++-{os.getpid()}"
    script.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX", "c++")} "$@" -O0\n')
    script.chmod(0o700)
    os.replace(script, folder / "c++")  # at once, for other processes may be using it
    patch.setenv("CXX", str(folder / "c++"))
    patch.setenv("XDG_CACHE_HOME", str(folder))
