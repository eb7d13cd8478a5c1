"""What a person is told about a faulty spec, word for word; see golden.py for the files."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from archc import compiler
from archc.errors import Mistake, SpecError
from archc.frontend import mistakes
from tests.frontend.golden import FOLDER, read

CASES = [case for path in sorted(FOLDER.glob("*.txt")) for case in read(path)]


@functools.cache
def _told(number: int) -> tuple[str, tuple[Mistake, ...]]:
    with TemporaryDirectory() as folder:
        return CASES[number].told(Path(folder))


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.title for case in CASES])
def test_what_is_printed(number: int) -> None:
    assert _told(number)[0] == CASES[number].expected


def test_every_mistake_is_shown() -> None:
    """Each class of mistakes.py is raised by some case: none is there that nothing reports."""
    raised = {type(mistake) for number in range(len(CASES)) for mistake in _told(number)[1]}
    known = {
        kind
        for kind in vars(mistakes).values()
        if isinstance(kind, type) and issubclass(kind, Mistake) and kind.__module__ == mistakes.__name__
    }
    assert known - raised == set()


def test_an_imported_spec_is_called_as_the_one_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages name the specs that they are made of: a folder of one machine means nothing on others."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "parts.arch").write_text("import std\nblock Twice(x) { return x + x }\n")
    (tmp_path / "mine" / "whole.arch").write_text("import parts\n")
    monkeypatch.chdir(tmp_path)
    module = compiler.read_spec_file(Path("mine/whole.arch")).module
    names = [each.source.name for each in module.with_imports()]
    assert names == ["mine/whole.arch", "mine/parts.arch", "specs/std.arch"]


def test_an_error_may_leave_its_process() -> None:
    with pytest.raises(SpecError) as found:
        compiler.read_spec_text("arch A( {")
    again = pickle.loads(pickle.dumps(found.value))
    assert str(again) == str(found.value)
    assert [str(mistake.span) for mistake in again.mistakes] == ["<text>:1:9"]
