"""The wheel, installed elsewhere, builds the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

MODELS = {"llama3": "llama3_8b", "gpt2": "gpt2"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_what_the_compiler_reads(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind in ("grammar", "templates", "specs"):
        expected = {
            f"archc/_data/{kind}/{p.relative_to(ROOT / kind)}"
            for p in (ROOT / kind).rglob("*")
            if p.is_file()
        }
        assert expected <= names
    assert not any(name.startswith(("tests/", "generated/")) for name in names)


def test_the_wheel_builds_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    site, output = tmp_path / "site", tmp_path / "out"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "ARCHC_CACHE_DIR": str(tmp_path / "cache")}
    for family, model in MODELS.items():
        spec = site / "archc" / "_data" / "specs" / f"{family}.arch"
        command = [sys.executable, "-m", "archc", "build", str(spec), "--model", model, "-o", str(output)]
        subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True)
        where = "import archc; print(archc.__file__)"
        loaded = subprocess.run(
            [sys.executable, "-c", where],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert loaded.stdout.startswith(str(site))
        for path in (ROOT / "generated" / model).iterdir():
            if path.suffix in (".py", ".cpp", ".md"):
                assert (output / model / path.name).read_bytes() == path.read_bytes(), path.name
