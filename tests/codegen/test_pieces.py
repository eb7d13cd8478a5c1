"""Attention piece by piece: the same values as at once, and memory that does not grow with T squared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc import compiler
from tests.support import build, distance, few, scramble

SPEC = Path(__file__).parents[1] / "verification" / "attention.arch"
ALWAYS = ("by_distance", "chosen", "chosen_with_sinks")
MODELS = [name for name in compiler.read_spec_file(SPEC).models if name not in ("prefixed", *ALWAYS)]
TOKENS = 300


def _paddings() -> dict[str, Tensor | None]:
    left, right, holes = torch.ones(3, 2, TOKENS).bool()
    left[0, :170] = False
    right[1, 140:] = False
    holes[:, 1:] = torch.rand(2, TOKENS - 1) < 0.5
    return {"none": None, "left": left, "right": right, "holes": holes}


@pytest.mark.parametrize("model", [*few(MODELS, 6), *ALWAYS])
def test_pieces_give_what_all_at_once_does(model: str, tmp_path: Path) -> None:
    """Whole and through a cache, with every kind of padding."""
    package = build(SPEC, model, tmp_path)
    reference = package.Reference(dtype=torch.float64)
    scramble(reference)
    reference.save_pretrained(tmp_path / "saved")
    fused = package.Model.from_pretrained(tmp_path / "saved")
    tokens = torch.randint(50, (2, TOKENS))
    for kind, padding in _paddings().items():
        real = slice(None) if padding is None else padding
        with torch.no_grad():
            truth = reference(tokens, padding=padding)[real]
            assert distance(fused(tokens, padding=padding)[real], truth) < 1e-12, kind
            if hasattr(fused, "new_cache"):
                assert distance(_in_parts(fused, tokens, padding)[real], truth) < 1e-12, kind


def _in_parts(model: Any, tokens: Tensor, padding: Tensor | None) -> Tensor:
    cache = model.new_cache(2, TOKENS)
    parts, start = [], 0
    for size in (3, 140, 156, 1):
        part = slice(start, start + size)
        hole = None if padding is None else padding[:, part]
        parts.append(model(tokens[:, part], padding=hole, cache=cache))
        start += size
    return torch.cat(parts, 1)


_PEAK = """
import importlib, sys, torch
torch.set_num_threads(1)
def peak():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1])
sys.path.insert(0, sys.argv[1])
model = importlib.import_module(sys.argv[2]).Model()
before = peak()
for count in sys.argv[4:]:
    tokens = torch.zeros(1, int(count), dtype=torch.long)
    padding = tokens == 0
    padding[0, :5] = False
    with torch.no_grad():
        model.hidden(tokens, padding=padding if sys.argv[3] == "padded" else None)
    print(peak() - before)
"""


def _peaks(package: Any, folder: Path, padded: str, *lengths: int) -> list[int]:
    """KiB that forward passes of so many tokens, ever more, take at most."""
    command = [sys.executable, "-c", _PEAK, str(folder), package.__name__, padded, *map(str, lengths)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [int(line) for line in output.split()]


@pytest.mark.parametrize(("softcap", "padded"), few([("none", "full"), ("30", "padded")], 1))
def test_memory_of_a_long_prompt(softcap: str, padded: str, tmp_path: Path) -> None:
    """A layer of a window and one of all tokens: four times the tokens take about four times the memory."""
    settings = {"masks": "[sliding(1024), causal]", "layers": "2", "heads": "1", "kv_heads": "1"}
    package = build(SPEC, "alternating", tmp_path, {**settings, "softcap": softcap})
    short, long = _peaks(package, tmp_path, padded, 2048, 8192)
    assert long < 6 * short
    assert long < 8192**2 / 1024  # a mask of all queries and keys alone
