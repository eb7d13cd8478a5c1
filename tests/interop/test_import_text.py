"""The spec that `archc import` writes: its names, its text, its file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from archc import compiler
from archc.cli import main
from archc.importer import import_model
from tests.interop.configs import write
from tests.interop.published import PUBLISHED
from tests.support import ROOT


def test_the_text_says_no_more_than_it_must(tmp_path: Path) -> None:
    config = PUBLISHED["llama3", "llama3_2_1b"]
    text = import_model(write(tmp_path / "Llama-3.2-1B", config)).text
    assert text == f"""\
# Imported from {tmp_path}/Llama-3.2-1B/config.json, a Hugging Face model of type llama.

import llama

model llama_3_2_1b = Llama(
  d = 2048, layers = 16, heads = 32, kv_heads = 8, d_ff = 8192, vocab = 128256, rope = rope(theta = 500000,
  scaling = llama3(factor = 32, low = 1, high = 4, original = 8192)), tied = true,
)
"""


def test_lists_are_written_by_their_period(tmp_path: Path) -> None:
    keys = {"no_rope_layers": [0, 1, 1] * 12, "model_type": "smollm3"}
    assert "rotated = [false, true, true] * 12" in import_model(write(tmp_path, keys)).text


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("SmolLM2-135M", "smollm2_135m"),
        ("7B--chat.v2", "model_7b_chat_v2"),
        ("import", "import_model"),
        ("torch", "torch_model"),
        ("модель", "llama"),
        ("models--org--Tiny-1/snapshots/0123456789abcdef", "tiny_1"),
        ("x" * 200, "x" * 60),
    ],
)
def test_names(folder: str, name: str, tmp_path: Path) -> None:
    text = import_model(write(tmp_path / folder, {"model_type": "llama"})).text
    assert compiler.read_spec_text(text).models == [name]


def test_the_name_in_the_config_helps_where_the_folder_has_none(tmp_path: Path) -> None:
    config = {"model_type": "llama", "_name_or_path": "org/Tiny-1/"}
    assert "model tiny_1 = " in import_model(write(tmp_path / "мама", config)).text


def test_a_path_cannot_leave_its_comment(tmp_path: Path) -> None:
    text = import_model(write(tmp_path / "a\nmodel b = Llama()\u2028", {"model_type": "llama"})).text
    assert len(compiler.read_spec_text(text).models) == 1
    assert text.split("\n")[0].endswith("a Hugging Face model of type llama.")


def test_command_prints_a_spec_that_passes_check(tmp_path: Path) -> None:
    model = write(tmp_path / "Tiny", {"model_type": "qwen2"})
    result = CliRunner().invoke(main, ["import", str(model)])
    assert result.exit_code == 0
    (tmp_path / "tiny.arch").write_text(result.output)
    checked = CliRunner().invoke(main, ["check", str(tmp_path / "tiny.arch")])
    assert "1 model, no mistakes" in checked.output


def test_command_overwrites_nothing_else(tmp_path: Path) -> None:
    model = write(tmp_path / "Tiny", {"model_type": "qwen2"})
    target = tmp_path / "tiny.arch"
    arguments = ["import", str(model), "-o", str(target)]
    assert CliRunner().invoke(main, arguments).output == f"{target}: written\n"
    text = target.read_text()
    assert CliRunner().invoke(main, arguments).exit_code == 0
    target.write_text(text + "# by hand\n")
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "is there already and differs" in refused.output
    assert target.read_text().endswith("# by hand\n")
    assert CliRunner().invoke(main, [*arguments, "--force"]).exit_code == 0
    assert target.read_text() == text


@pytest.mark.parametrize(
    ("target", "told"), [("qwen2.arch", "would hide `qwen2`"), ("no/where.arch", "cannot write")]
)
def test_command_refuses_a_file_that_cannot_be(target: str, told: str, tmp_path: Path) -> None:
    model = write(tmp_path / "Tiny", {"model_type": "qwen2"})
    result = CliRunner().invoke(main, ["import", str(model), "-o", str(tmp_path / target)])
    assert result.exit_code == 1
    assert told in result.output
    assert not (tmp_path / target).exists()


def test_command_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    model = write(tmp_path / "Tiny", {"model_type": "llama"})
    code = f"""
import sys
from archc.cli import main
try:
    main(["import", {str(model)!r}])
except SystemExit as end:
    assert not end.code, end.code
loaded = {{"torch", "triton", "transformers"}} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
