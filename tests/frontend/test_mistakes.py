"""What a person is told about a faulty spec, word for word; see golden.py for the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from archc.errors import Mistake
from archc.frontend import mistakes
from tests.frontend.golden import FOLDER, Case, read

CASES = [case for path in sorted(FOLDER.glob("*.txt")) for case in read(path)]


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_what_is_printed(case: Case, tmp_path: Path) -> None:
    assert case.told(tmp_path)[0] == case.expected


def test_every_mistake_is_shown(tmp_path: Path) -> None:
    """Each class of mistakes.py is raised by some case: none is there that nothing reports."""
    raised: set[type[Mistake]] = set()
    for number, case in enumerate(CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        raised |= {type(mistake) for mistake in case.told(folder)[1]}
    known = {
        kind
        for kind in vars(mistakes).values()
        if isinstance(kind, type) and issubclass(kind, Mistake) and kind.__module__ == mistakes.__name__
    }
    assert known - raised == set()
