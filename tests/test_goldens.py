"""generated/ is what the specs say, the same under every hash seed, and laid out as black does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import black
import pytest

from tests.support import ROOT, few

GENERATED = ROOT / "generated"
MODELS = (
    "smollm2_135m",
    "llama3_8b",
    "qwen3_8b",
    "olmo2_7b",
    "gpt2",
    "palm_8b",
    "qwen3_30b_a3b",
    "gemma3_1b",
    "switch_base_8",
)


def _archc(*arguments: str, seed: str = "0", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    return subprocess.run(
        [sys.executable, "-m", "archc", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_models_are_there() -> None:
    assert set(MODELS) <= {path.name for path in GENERATED.iterdir()}


@pytest.mark.parametrize("seed", few(["1", "20261122"], 1))
def test_goldens_are_up_to_date_under_a_hash_seed(seed: str) -> None:
    result = _archc("build", "--check", seed=seed)
    assert result.returncode == 0, result.stderr


def test_modules_import_what_they_use_on_lines_that_fit() -> None:
    rules = ["--isolated", "--no-cache", "--select", "F,E501", "--line-length", "120"]
    command = [sys.executable, "-m", "ruff", "check", *rules, str(GENERATED)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_a_stale_golden_is_found(tmp_path: Path) -> None:
    assert _archc("build", "specs/gpt2.arch", "--model", "gpt2_tiny", "-o", str(tmp_path)).returncode == 0
    assert _archc("build", "--check", "-o", str(tmp_path)).returncode == 0
    model = tmp_path / "gpt2_tiny" / "model.py"
    model.write_text(model.read_text().replace("layer_norm", "rms_norm"))
    result = _archc("build", "--check", "-o", str(tmp_path))
    assert result.returncode == 1
    assert "model.py" in result.stderr


@pytest.mark.parametrize(
    "path", few(sorted(GENERATED.rglob("*.py")), 30), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_goldens_are_in_blacks_style(path: Path) -> None:
    mode = black.Mode(line_length=120, target_versions={black.TargetVersion.PY311})
    text = path.read_text()
    assert black.format_str(text, mode=mode) == text


@pytest.mark.parametrize(
    "path", sorted(GENERATED.rglob("*.py")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_generated_code_never_imports_archc(path: Path) -> None:
    assert "import archc" not in path.read_text()
    assert "from archc" not in path.read_text()
