"""What the README shows is there: its excerpts, its links, its commands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from archc.cli import main
from tests.support import ROOT

README = (ROOT / "README.md").read_text()
FILES = dict(re.findall(r"<!-- file (\S+) -->\n```\w*\n(.*?)```", README, re.DOTALL))
EXCERPTS = re.findall(r"<!-- from (\S+) -->\n```\w*\n(.*?)```", README, re.DOTALL)


def test_there_are_excerpts_of_a_spec_a_module_and_a_kernel() -> None:
    assert {name.split("/")[-1] for name, _ in EXCERPTS} == {"llama.arch", "model.py", "kernels.py"}


@pytest.mark.parametrize(("name", "text"), EXCERPTS, ids=[name for name, _ in EXCERPTS])
def test_excerpts_are_of_their_files(name: str, text: str) -> None:
    source = (ROOT / name).read_text()
    for part in text.split("...\n"):
        assert part in source


def test_links_lead_somewhere() -> None:
    """Those of the pages in docs too."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())]
    assert {page.name for page, _ in links} >= {"README.md", "language.md", "limits.md"}
    there = ((page.parent / link).exists() or link.startswith("https://") for page, link in links)
    assert [found for found, is_there in zip(links, there, strict=True) if not is_there] == []


def test_commands_are_those_there_are() -> None:
    shown = set(re.findall(r"^archc (\w+)", README, re.MULTILINE))
    assert shown == set(main.commands)


def test_the_small_model_learns(tmp_path: Path) -> None:
    """Its two files, with fewer steps."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.replace("range(301)", "range(51)"))
    shutil.copy(ROOT / "README.md", tmp_path)
    for command in (["-m", "archc", "build", "tiny.arch"], ["train.py"]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    (_, first), (_, last) = (line.split() for line in done.stdout.splitlines()[:2])
    assert float(last) < 0.7 * float(first)
    assert (tmp_path / "tiny" / "model.safetensors").is_file()
