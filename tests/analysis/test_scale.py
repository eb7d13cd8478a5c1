"""`archc scale`: what it prints is what the laws say, with which N they mean, and no torch behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from archc.analysis.allocation import Demand, for_budget, for_loss
from archc.analysis.laws.chinchilla import EPOCH, HOFFMANN_TEX
from archc.cli import main
from archc.errors import ArchcError
from archc.quantities import parse_quantity, quantity_text, with_unit
from tests.support import SPECS, check_refused

LLAMA = str(SPECS / "llama3.arch")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["scale", *arguments], env={"COLUMNS": "200"})


def fits(*arguments: str) -> list[dict[str, Any]]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["fits"]
    return found


def test_predicted_losses() -> None:
    asked = ["--params", "70B", "--tokens", "1.4T"]
    epoch, tex = fits(*asked, "--fit", "epoch", "--fit", "hoffmann-tex")
    assert epoch["loss"] == EPOCH.loss(70e9, 1.4e12)
    assert epoch["loss_standard_error"] == pytest.approx(0.083, abs=1e-3)
    assert tex["loss"] == HOFFMANN_TEX.loss(70e9, 1.4e12)
    assert tex["loss_standard_error"] is None
    assert epoch["training_flops"] == pytest.approx(5.88e23)
    text = run(*asked).output
    assert "1.9739 ± 0.083" in text
    assert "N is all parameters" in text
    assert "extrapolated" in text


def test_each_law_says_what_it_counts() -> None:
    asked = ["--params", "1B", "--tokens", "20B", "--experts", "8", "--granularity", "8"]
    names = ("epoch", "kaplan", "krajewski", "clark", "ludziejewski")
    found = fits(*asked, *(part for name in names for part in ("--fit", name)))
    assert [each["fit"] for each in found] == list(names)
    assert len({each["parameters_mean"] for each in found}) == 4
    assert "compare them within a fit" in run(*asked, "--fit", "epoch", "--fit", "kaplan").output


def test_a_model_of_a_spec_has_the_n_that_each_law_means() -> None:
    """Qwen3-8B: 8.19B in all, 6.95B without its two tables."""
    asked = [str(SPECS / "qwen3.arch"), "--model", "qwen3_8b", "--tokens", "36T"]
    epoch, kaplan = fits(*asked, "--fit", "epoch", "--fit", "kaplan")
    assert epoch["parameters"] == 8_190_735_360
    assert kaplan["parameters"] == 8_190_735_360 - 2 * 151936 * 4096
    assert "qwen3_8b, trained on 36T tokens" in run(*asked).output
    (small,) = fits(*asked, "--set", "layers=2")
    assert small["parameters"] < epoch["parameters"]


def test_budgets_and_losses() -> None:
    (plain,) = fits("--compute", "5.76e23")
    assert plain["tokens_per_parameter"] == pytest.approx(18.4, abs=0.05)
    assert plain["compute_optimal_of_the_same_loss"] is None
    (served,) = fits("--compute", "1e24", "--serve", "10T")
    expected = for_budget(EPOCH, 1e24, Demand(1e13))
    assert served["parameters"] == expected.parameters
    assert served["training_flops"] + served["serving_flops"] == pytest.approx(1e24)
    other = served["compute_optimal_of_the_same_loss"]
    assert other["loss"] == pytest.approx(served["loss"], abs=1e-9)
    assert other["training_flops"] + other["serving_flops"] > 1.3e24
    (dear,) = fits("--loss", "2.0", "--serve", "10T", "--serving-price", "4")
    assert dear["parameters"] == for_loss(EPOCH, 2.0, Demand(1e13, 4)).parameters
    assert "cheaper with serving" in run("--loss", "2.0", "--serve", "10T").output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "give --tokens with --params or a SPEC"),
        (("--params", "8B"), 2, "give --tokens with --params or a SPEC"),
        (("--tokens", "8B", "--compute", "1e20"), 2, "give --tokens with --params or a SPEC"),
        (("--params", "8B", "--tokens", "1T", "--set", "d=64"), 2, "give --tokens with --params or a SPEC"),
        ((LLAMA, "--params", "8B", "--tokens", "1T"), 2, "give --tokens with --params or a SPEC"),
        ((LLAMA, "--tokens", "1T"), 1, "has several models: --model chooses of llama3_8b"),
        ((LLAMA, "--model", "llama3_9b", "--tokens", "1T"), 1, "did you mean `llama3_8b`?"),
        (
            (LLAMA, "--model", "llama3_8b", "--tokens", "1T", "--fit", "clark", "--experts", "8"),
            1,
            "give --params",
        ),
        (("--params", "8 billion", "--tokens", "1T"), 2, "is no amount"),
        (("--compute", "-1"), 2, "is no amount"),
        (("--compute", "1e20", "--fit", "chinchila"), 1, "the fits are epoch"),
        (("--compute", "1e20", "--fit", "hofmann-tex"), 1, "did you mean `hoffmann-tex`?"),
        (("--compute", "1000"), 1, "no model of 10,000 parameters or more trains"),
        (("--compute", "1e15", "--serve", "1e18"), 1, "and serves 1e18 tokens for 1e15 FLOPs"),
        (("--loss", "1.5"), 1, "no model reaches a loss of 1.5"),
        (("--params", "1B", "--tokens", "1B", "--fit", "clark"), 1, "give --experts"),
        (("--compute", "1e20", "--plot", "picture.txt"), 1, "a picture is a .png"),
        (("--compute", "1e20", "--plot", "nowhere/picture.png"), 1, "there is no directory nowhere"),
    ],
)
def test_bad_input_gets_one_sentence(arguments: tuple[str, ...], status: int, message: str) -> None:
    check_refused(run(*arguments), message, status)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_pictures(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"picture.{kind}"
    result = run("--compute", "1e24", "--serve", "10T", "--plot", str(path))
    assert result.exit_code == 0, result.output
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


def test_a_missing_matplotlib_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = run("--compute", "1e24", "--plot", str(tmp_path / "picture.png"))
    assert result.exit_code == 1
    assert "pip install 'archc-compiler[analysis]'" in result.output


@pytest.mark.parametrize(
    ("text", "value"),
    [("8B", 8e9), ("1.5t", 1.5e12), ("1e24", 1e24), ("128_000", 128e3), ("350M", 350e6), ("7", 7)],
)
def test_quantities(text: str, value: float) -> None:
    assert parse_quantity(text) == value
    assert parse_quantity(quantity_text(value)) == pytest.approx(value, rel=5e-3)


@pytest.mark.parametrize("text", ["", "B", "8X", "-8B", "0", "nan", "inf", "1e999", "8 B", "8BB", "٣B"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ArchcError, match="is no amount"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(8.03e9, "8.03B"), (999.6e9, "1T"), (18.42, "18.4"), (1868.0, "1.87K"), (0, "0"), (0.0123, "0.0123")],
)
def test_quantities_as_text(value: float, text: str) -> None:
    assert quantity_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (16.06e9, "16.1 Gs"),
        (999.6, "1 ks"),
        (18.4, "18.4 s"),
        (0, "0 s"),
        (3.06e-9, "3.06 ns"),
        (344e-12, "344 ps"),
    ],
)
def test_quantities_with_a_unit(value: float, text: str) -> None:
    assert with_unit(value, "s") == text
