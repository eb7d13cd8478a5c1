"""What a build notes down is what it read and wrote itself, whatever happens to the files meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from archc import freshness
from archc.cli import main

SPEC = """arch Small(d) {
  forward(tokens: [B, T]) { return linear(embedding(tokens, 9, d) as embed, 9) as head }
}
model small = Small(d = 8)
"""

Meanwhile = Callable[[Callable[[], Any]], None]


def build(spec: Path, width: int = 8) -> None:
    arguments = ["build", str(spec), "-o", str(spec.parent), "--set", f"d={width}"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output


def reference(spec: Path) -> str:
    return (spec.parent / "small" / "reference.py").read_text()


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARCHC_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "small.arch"
    path.write_text(SPEC)
    return path


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Let something happen once, before the next build notes down what it made."""
    remember = freshness.remember

    def next_time(change: Callable[[], Any]) -> None:
        def delayed(*record: Any) -> None:
            monkeypatch.setattr(freshness, "remember", remember)
            change()
            remember(*record)

        monkeypatch.setattr(freshness, "remember", delayed)

    return next_time


def test_a_package_that_another_build_made_meanwhile_is_made_again(spec: Path, meanwhile: Meanwhile) -> None:
    meanwhile(lambda: build(spec, width=12))
    build(spec)
    assert "D = 12" in reference(spec)
    build(spec)
    assert "D = 8" in reference(spec)


def test_a_package_whose_spec_changed_meanwhile_is_made_again(spec: Path, meanwhile: Meanwhile) -> None:
    meanwhile(lambda: spec.write_text(SPEC.replace("9", "11")))
    build(spec)
    assert "empty(9, D" in reference(spec)
    build(spec)
    assert "empty(11, D" in reference(spec)


def test_a_package_that_was_removed_meanwhile_is_made_again(spec: Path, meanwhile: Meanwhile) -> None:
    meanwhile(lambda: shutil.rmtree(spec.parent / "small"))
    build(spec)
    build(spec)
    assert reference(spec)
