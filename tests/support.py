"""What tests share: building a package and importing it, random checkpoints, distances, folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from archc import compiler
from archc.compiler import Compilation
from archc.target import TARGETS
from archc.verification.packages import import_package

ROOT = Path(__file__).resolve().parent.parent
SPECS = ROOT / "specs"

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")


def compile_model(
    spec: Path | str, model: str, settings: Mapping[str, str] | None = None, target: str = "cuda"
) -> Compilation:
    """Compile one model of a spec, given as a file or as its text."""
    read = compiler.read_spec_text(spec) if isinstance(spec, str) else compiler.read_spec_file(spec)
    (program,) = compiler.lower_models(read, [model], settings)
    return compiler.compile_program(program, read.rules, TARGETS[target])


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


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all test processes of a run have in common."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    folder.mkdir(exist_ok=True)
    return folder
