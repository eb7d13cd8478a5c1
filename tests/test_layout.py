"""The direction of imports: parts of the pipeline do not know one another, and building needs no torch."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGE = ROOT / "archc"
PARTS = ("frontend", "passes", "codegen", "analysis", "interop")
# What each part may import of archc besides itself.
ALLOWED = {
    part: {"ir", "errors", "files", "quantities", "resources", "tables", "target", "tuned"} for part in PARTS
} | {
    "files": {"errors"},
    "ir": {"errors"},
    "errors": set(),
    "quantities": {"errors"},
    "resources": {"errors"},
    "tables": {"errors"},
    "target": set(),
    "tuned": {"errors", "files"},
}


@functools.cache
def _imports(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _parts_imported(path: Path) -> set[str]:
    names = [name.split(".") for name in _imports(path)]
    return {name[1] for name in names if name[0] == "archc" and len(name) > 1}


@pytest.mark.parametrize("part", ALLOWED)
def test_parts_import_only_what_they_may(part: str) -> None:
    files = sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]
    for path in files:
        assert _parts_imported(path) <= ALLOWED[part] | {part}, path


def test_the_test_above_sees_imports() -> None:
    assert {"frontend", "passes", "ir"} <= _parts_imported(PACKAGE / "compiler.py")


def test_graphs_and_cuts_alone_know_networkx() -> None:
    files = {
        path for path in PACKAGE.rglob("*.py") if any(n.split(".")[0] == "networkx" for n in _imports(path))
    }
    assert files == {PACKAGE / "ir" / "graph.py", PACKAGE / "ir" / "minimum_cut.py"}


COMMANDS = [
    ["check", "specs/llama3.arch"],
    ["build", "specs/llama3.arch", "--model", "llama3_8b", "-o", "{tmp}"],
    ["ir", "specs/llama3.arch", "--model", "llama3_tiny"],
    ["explain", "specs/llama3.arch", "--model", "llama3_tiny"],
    ["scale", "--compute", "1e24", "--serve", "10T"],
    ["scale", "specs/llama3.arch", "--model", "llama3_8b", "--tokens", "15T"],
    ["design", "--params", "1B"],
    ["analyze", "specs/llama3.arch", "--model", "llama3_tiny"],
    ["diff", "specs/llama3.arch:llama3_tiny", "specs/llama2.arch:llama2_tiny"],
    ["analyze", "specs/llama3.arch", "--model", "llama3_tiny", "--hardware", "cpu", "--json"],
]
_RUN = """
import sys
from archc.cli import main
for command in eval(sys.argv[1]):
    try:
        main(command)
    except SystemExit as end:
        assert not end.code, (command, end.code)
    loaded = {"torch", "triton", "transformers"} & set(sys.modules)
    assert not loaded, (command, loaded)
"""


def test_commands_import_neither_torch_nor_triton(tmp_path: Path) -> None:
    """In a process of their own, one after the other: the first that imports one of them is named."""
    commands = [[part.replace("{tmp}", str(tmp_path)) for part in command] for command in COMMANDS]
    result = subprocess.run(
        [sys.executable, "-c", _RUN, repr(commands)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


_IMPORT = """
import importlib, sys
for package in sys.argv[1:]:
    importlib.import_module(package)
    assert "torch._dynamo" not in sys.modules, package
"""


def test_packages_import_no_compiler_of_pytorchs() -> None:
    """It takes as long to import as PyTorch itself, and few who import a package need it."""
    packages = sorted(path.parent.name for path in (ROOT / "generated").glob("*/model.py"))
    result = subprocess.run(
        [sys.executable, "-c", _IMPORT, *packages],
        cwd=ROOT / "generated",
        capture_output=True,
        text=True,
        check=False,
    )
    assert packages
    assert result.returncode == 0, result.stderr
