"""`archc diff`: what changes between two models, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from archc.cli import main
from tests.support import SPECS, check_refused

SMALL = "d = 32, layers = 1, heads = 2, d_ff = 64, vocab = 64"


def run(a: str, b: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["diff", str(SPECS / a), str(SPECS / b), *arguments])


def compared(a: str, b: str, *arguments: str) -> Any:
    result = run(a, b, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def rows(comparison: Any) -> dict[str, Any]:
    return {row["what"]: row for row in comparison["rows"]}


def test_sizes_are_no_dataflow() -> None:
    assert compared("llama3.arch:llama3_8b", "llama3.arch:llama3_70b")["dataflow"] == []


def test_a_window_is_a_different_attention() -> None:
    """Mistral 7B is Llama with a window, here at the sizes of another model."""
    changed = compared("llama2.arch:llama2_7b", "mistral.arch:mistral_7b")["dataflow"]
    (layer,) = [each for each in changed if each["part"] != "model"]
    (removed,), (added,) = layer["removed"], layer["added"]
    assert "attend(rotate_by, rotate_by, linear) {mask = causal" in removed
    assert "attend(rotate_by, rotate_by, linear) {mask = sliding(window = 4096)" in added


def test_where_a_norm_stands_shows_in_what_is_read() -> None:
    changed = compared("qwen3.arch:qwen3_8b", "olmo2.arch:olmo2_7b")["dataflow"]
    removed = [line for each in changed for line in each["removed"]]
    added = [line for each in changed for line in each["added"]]
    assert "Attention: linear(rms_norm)" in removed
    assert "Attention: linear(x)" in added
    assert "add(x, rms_norm)" in added


def test_lists_of_numbers_show(tmp_path: Path) -> None:
    for name, last in (("a", 4), ("b", 5)):
        (tmp_path / f"{name}.arch").write_text(f"""arch A(d = 4) {{
              forward(x: float[B, T, d]) {{ return linear(x * [1, 2, 3, {last}], d) as up }}
            }}
            model {name} = A()""")
    (changed,) = compared(str(tmp_path / "a.arch"), str(tmp_path / "b.arch"))["dataflow"]
    assert changed["removed"] == ["constants(x) {values = [1, 2, 3, 4]}"]
    assert changed["added"] == ["constants(x) {values = [1, 2, 3, 5]}"]


def test_numbers_are_those_of_analyze() -> None:
    found = rows(compared("llama2.arch:llama2_7b", "llama3.arch:llama3_8b"))
    assert found["parameters: total"] == {
        "what": "parameters: total",
        "unit": "",
        "a": 6_738_415_616,
        "b": 8_030_261_248,
        "ratio": pytest.approx(1.1917, abs=1e-4),
    }
    assert found["cache: a token"]["ratio"] == 0.25
    assert found["decode: tokens a second, at most"]["a"] > found["decode: tokens a second, at most"]["b"]


def test_caches_are_told_as_analyze_does() -> None:
    """Rings and states only where there are any."""
    plain = rows(compared("llama2.arch:llama2_7b", "llama3.arch:llama3_8b"))
    assert [what for what in plain if "cache" in what] == ["cache: a token", "cache: of the batch"]
    found = rows(compared("gemma3.arch:gemma3_1b", "mamba2.arch:mamba2_130m"))
    assert (found["cache: a token"]["a"], found["cache: a token once rings are full"]["a"]) == (26_624, 4_096)
    assert found["cache: states of a sequence"]["a"] == 0 < found["cache: states of a sequence"]["b"]


def test_the_loss_is_the_laws() -> None:
    """L = E + A / N^alpha + B / D^beta with Epoch's coefficients."""
    found = rows(compared("llama2.arch:llama2_7b", "llama3.arch:llama3_8b", "--tokens", "15T"))
    loss = found["loss after 15T tokens, `epoch`"]
    expected = 1.8172 + 482.01 / 8_030_261_248**0.3478 + 2085.43 / 15e12**0.3658
    assert loss["b"] == pytest.approx(expected, abs=1e-4)
    assert loss["ratio"] < 1


def test_roles_that_one_lacks() -> None:
    head = rows(compared("llama3.arch:llama3_8b", "palm.arch:palm_8b"))["parameters: head"]
    assert (head["b"], head["ratio"]) == (0, 0)


def test_tables_for_people() -> None:
    result = run("llama2.arch:llama2_7b", "mistral.arch:mistral_7b")
    assert result.exit_code == 0
    assert "llama2_7b" in result.output
    assert "+ Attention: attend" in result.output
    assert "dataflow: the same" in run("llama3.arch:llama3_8b", "llama3.arch:llama3_70b").output


@pytest.mark.parametrize(
    ("a", "b", "arguments", "message"),
    [
        ("llama2.arch", "llama3.arch:llama3_8b", (), "has several models: write"),
        ("llama2.arch:llama2_8b", "llama3.arch:llama3_8b", (), "did you mean `llama2_7b`?"),
        ("lama2.arch:llama2_7b", "llama3.arch:llama3_8b", (), "did you mean `llama2.arch`?"),
        ("llama2.arch:llama2_7b", "llama3.arch:llama3_8b", ("--hardware", "tpu"), "no device `tpu`"),
        ("llama2.arch:llama2_7b", "llama3.arch:llama3_8b", ("--fit", "epoc"), "did you mean `epoch`?"),
        ("gpt2.arch:gpt2", "llama3.arch:llama3_8b", ("--context", "4096"), "learned positions for 1,024"),
    ],
)
def test_faulty_requests(a: str, b: str, arguments: tuple[str, ...], message: str) -> None:
    check_refused(run(a, b, *arguments), message)


def test_a_colon_in_a_file_name_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "a:b.arch").write_text(f"import llama\nmodel m = Llama({SMALL})\n")
    found = CliRunner().invoke(main, ["diff", str(tmp_path / "a:b.arch"), str(tmp_path / "a:b.arch:m")])
    assert found.exit_code == 0
