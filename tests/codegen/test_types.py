"""Packages as their owner's type checker and linter see them, without any settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, SPECS, build

WRITTEN = ("llama3_8b", "gemma3_1b", "switch_base_8")
ARCHITECTURES = ROOT / "tests" / "architectures"
USE = """
import torch

from llama3_8b import Model

tokens = torch.zeros(1, 8, dtype=torch.int64)
model = Model.from_pretrained("checkpoint", dtype=torch.bfloat16)
model.loss(tokens, tokens).backward()
terms = model.loss(tokens, tokens, apart=True)
print(terms["cross_entropy"].item(), model.generate(tokens, max_new_tokens=1).shape)
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    for name in WRITTEN:
        (tmp_path / name).symlink_to(ROOT / "generated" / name)
    build(SPECS / "qwen3_next.arch", "qwen3_next_tiny", tmp_path)
    build(ARCHITECTURES / "retrieval.arch", "retrieval", tmp_path)
    build(ARCHITECTURES / "blocks.arch", "blocks", tmp_path)
    return tmp_path


@pytest.mark.slow  # reads all that PyTorch declares; `make types` checks the packages in generated/
def test_types(packages: Path) -> None:
    (packages / "use.py").write_text(USE)
    _run("mypy", "--config-file=", ".", cwd=packages)


def test_lint(packages: Path) -> None:
    """Kernels may have longer lines, and load values that their gradients do not read."""
    rules = ["--select=F,I,B,UP", "--ignore=F841", "--line-length=120", "--target-version=py311"]
    _run("ruff", "check", "--isolated", *rules, ".", cwd=packages)


def _run(tool: str, *arguments: str, cwd: Path) -> None:
    done = subprocess.run([sys.executable, "-m", tool, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
