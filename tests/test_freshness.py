"""What a build notes down is what it read and wrote itself, whatever happens to the files meanwhile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from archc import freshness, resources
from archc.cli import main
from archc.files import write_whole
from tests.support import build as build_package

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


@pytest.mark.parametrize("again", [build, lambda spec: write_whole(spec.parent / "small" / "model.py", "")])
def test_what_a_killed_process_left_is_removed(
    again: Callable[[Path], None], spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else that lies in the folder."""

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    def listing() -> set[str]:
        return {path.name for path in folder.iterdir()}

    folder = spec.parent / "small"
    build(spec)
    (folder / ".mine.in_hand").touch()
    before = listing()
    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", kill)
        killed.setattr(os, "unlink", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            write_whole(folder / "model.py", "half of it")
    assert len(listing() - before) == 1
    again(spec)
    assert listing() == before


@pytest.mark.parametrize(("given", "used"), [("", ".cache"), ("relative", ".cache"), ("/own", "own")])
def test_only_an_absolute_cache_folder_is_one(
    given: str, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the standard of $XDG_CACHE_HOME has it, for archc and for a package's native code."""
    native = build_package(SPEC, "small", tmp_path).native
    monkeypatch.delenv("ARCHC_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}{given}" if given.startswith("/") else given)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(native, "_run", _compile)
    assert resources.cache_dir() == tmp_path / used / "archc"
    assert native._compiled(["c++"]).parent == tmp_path / used / "archc"


def _compile(command: list[str]) -> str:
    """Stands for the compiler, which takes seconds."""
    if "-shared" in command:
        Path(command[-1]).touch()
    return ""
