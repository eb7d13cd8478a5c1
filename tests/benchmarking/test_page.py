"""docs/benchmarks.md is what the committed figures make of it."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import ROOT

RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_run", ROOT / "benchmarks" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_committed_figures(run: ModuleType, tmp_path: Path) -> None:
    copy = tmp_path / "benchmarks.md"
    shutil.copy(run.PAGE, copy)
    run.write_page(copy, RESULTS)
    assert copy.read_text() == run.PAGE.read_text()


def test_the_page_has_a_section_for_each_kind_of_device(run: ModuleType) -> None:
    kinds = set(re.findall(r"<!-- results: (\w+) -->", run.PAGE.read_text()))
    assert kinds == {"cpu", "cuda"} | {folder.name for folder in RESULTS.glob("*") if folder.is_dir()}


def test_its_models_are_in_their_specs(run: ModuleType) -> None:
    for model, spec in run.MODELS.items():
        assert f"\nmodel {model} = " in (ROOT / "specs" / f"{spec}.arch").read_text()
