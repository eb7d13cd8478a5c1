"""What the README shows is there: its excerpts, its links, its commands."""

from __future__ import annotations

import re

import pytest

from archc.cli import main
from tests.support import ROOT

README = (ROOT / "README.md").read_text()
EXCERPTS = re.findall(r"<!-- from (\S+) -->\n```\w*\n(.*?)```", README, re.DOTALL)


def test_there_are_excerpts_of_a_spec_a_module_and_a_kernel() -> None:
    assert {name.split("/")[-1] for name, _ in EXCERPTS} == {"llama.arch", "model.py", "kernels.py"}


@pytest.mark.parametrize(("name", "text"), EXCERPTS, ids=[name for name, _ in EXCERPTS])
def test_excerpts_are_of_their_files(name: str, text: str) -> None:
    source = (ROOT / name).read_text()
    for part in text.split("...\n"):
        assert part in source


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_commands_are_those_there_are() -> None:
    shown = set(re.findall(r"^archc (\w+)", README, re.MULTILINE))
    assert shown == set(main.commands)
