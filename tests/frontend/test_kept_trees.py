"""Trees that are kept from one run to the next: of the same text alone, and never in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from archc.errors import Reporter, Source
from archc.frontend import kept_trees, parse, syntax

TEXT = "arch A(d = 8) {\n  forward(x: float[B, T, d]) { return silu(x) }\n}\n"
CHANGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "of another text": lambda path: path.write_bytes(b"\0" + path.read_bytes()),
    "gone": Path.unlink,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ARCHC_CACHE_DIR", str(tmp_path))
    yield tmp_path / "archc" / "trees"
    kept_trees._recall.cache_clear()


def _read(text: str = TEXT, name: str = "a.arch", keep: bool = True) -> syntax.Spec | None:
    """As a process of its own would."""
    kept_trees._recall.cache_clear()
    return kept_trees.tree_of(Source(name, text), Reporter(), keep=keep)


def test_a_text_is_parsed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _read()
    monkeypatch.delattr(parse, "parse")
    assert first is not None
    assert _read() == first
    with pytest.raises(ImportError):
        _read(TEXT + "\n")
    with pytest.raises(ImportError):
        _read(name="b.arch")
    assert len(list(folder.iterdir())) == 1


@pytest.mark.usefixtures("folder")
def test_a_process_parses_a_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the one that finds it nowhere, or can keep it nowhere."""
    monkeypatch.setattr(kept_trees, "_place", lambda _: None)
    first = _read()
    monkeypatch.delattr(parse, "parse")
    assert first is not None
    assert kept_trees.tree_of(Source("a.arch", TEXT), Reporter(), keep=True) is first


@pytest.mark.usefixtures("folder")
def test_a_changed_file_takes_the_place_of_what_it_was() -> None:
    before, after = _read(), _read(TEXT.replace("8", "16"))
    assert before != after == parse.parse(Source("a.arch", TEXT.replace("8", "16")), Reporter())
    assert _read() == before


@pytest.mark.parametrize("change", CHANGES)
def test_what_cannot_be_read_is_parsed_again(folder: Path, change: str) -> None:
    tree = _read()
    (path,) = folder.iterdir()
    CHANGES[change](path)
    assert _read() == tree


def test_mistakes_and_texts_of_no_file_are_not_kept(folder: Path) -> None:
    assert _read("arch {") is None
    assert _read(keep=False) is not None
    assert not folder.exists()


def test_few_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_trees, "_MOST", 2)
    for number in range(4):
        _read(name=f"{number}.arch")
    assert len(list(folder.iterdir())) == 2
