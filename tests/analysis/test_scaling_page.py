"""docs/scaling.md: what stands after each command is what it prints.

`python -m tests.analysis.test_scaling_page` writes the outputs again.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from archc.analysis.laws.named import NAMES, law_named
from archc.cli import main
from tests.support import ROOT

PAGE = ROOT / "docs" / "scaling.md"
RUN = re.compile(r"<!-- runs -->\n```console\n\$ archc ([^\n]*)\n(.*?)```", re.DOTALL)
RUNS = RUN.findall(PAGE.read_text())


def printed(command: str) -> str:
    """What a command prints, on a terminal of 110 columns."""
    result = CliRunner().invoke(main, shlex.split(command), env={"COLUMNS": "110"})
    assert result.exit_code == 0, result.output
    return "".join(f"{line.rstrip()}\n" for line in result.output.splitlines())


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        pytest.param(*run, id=run[0], marks=pytest.mark.slow if run[0].startswith("search") else ())
        for run in RUNS
    ],
)
def test_commands_print_what_the_page_shows(command: str, expected: str) -> None:
    assert printed(command) == expected, "run `python -m tests.analysis.test_scaling_page`"


def test_the_page_has_commands() -> None:
    assert len(RUNS) >= 3


def test_the_page_names_every_fit_and_what_it_counts() -> None:
    rows = re.findall(r"^\| (`[a-z].*?) \| (.*?) \|$", PAGE.read_text(), re.MULTILINE)
    named = {name: meaning for names, meaning in rows for name in re.findall(r"`([\w-]+)`", names)}
    assert set(NAMES) - {"krajewski-dense"} <= set(named)
    for name in ("epoch", "hoffmann-tex"):
        assert named[name] == str(law_named(name).counts)


def main_(page: Path = PAGE) -> None:
    def filled(match: re.Match[str]) -> str:
        return f"<!-- runs -->\n```console\n$ archc {match[1]}\n{printed(match[1])}```"

    page.write_text(RUN.sub(filled, page.read_text()))


if __name__ == "__main__":
    main_()
