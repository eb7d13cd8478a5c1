"""Packages as their owner's type checker and linter see them, without any settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, SPECS, build

WRITTEN = ("llama3_8b", "gemma3_1b", "switch_base_8")
ARCHITECTURES = ROOT / "tests" / "architectures"
FAMILIES = ROOT / "tests" / "interop" / "families"
# A kernel whose gradient does not read all operands, and layers without a cache.
GATED = """
    fuse gated(x, y, z) { return (x + 1) * sigmoid(y) * y + z }
    arch A(d = 24) {
      forward(tokens: [B, T]) {
        h = embedding(tokens, 9, d) as embed
        for i in 0..2 as layers {
          x, y = split(linear(h, 2 * d) as up, 2)
          h = (x + 1) * sigmoid(y) * y + linear(h, d) as gate
        }
        return linear(h, 9) as head
      }
      expect fuse(gated)
    }
    model gated = A()
"""
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
    build(SPECS / "recurrent_gemma.arch", "recurrent_gemma_tiny", tmp_path)
    build(FAMILIES / "doge.arch", "doge", tmp_path)
    build(FAMILIES / "zaya.arch", "zaya", tmp_path)
    build(GATED, "gated", tmp_path)
    return tmp_path


@pytest.mark.slow  # reads all that PyTorch declares; `make types` checks the packages in generated/
def test_types(packages: Path) -> None:
    (packages / "use.py").write_text(USE)
    _run("mypy", "--config-file=", ".", cwd=packages)


def test_lint(packages: Path) -> None:
    """Kernels may have longer lines."""
    rules = ["--select=F,I,B,UP", "--line-length=120", "--target-version=py311"]
    _run("ruff", "check", "--isolated", *rules, ".", cwd=packages)


def _run(tool: str, *arguments: str, cwd: Path) -> None:
    done = subprocess.run([sys.executable, "-m", tool, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
