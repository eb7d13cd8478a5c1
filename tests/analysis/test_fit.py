"""`archc fit` recovers laws from noisy runs, says how sure it is, and what runs cannot tell."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from archc.analysis.fitting import chinchilla, conditional
from archc.analysis.fitting.bootstrap import Vector, interval, resamples
from archc.analysis.fitting.chinchilla import fit_chinchilla
from archc.analysis.fitting.conditional import fit_conditional, sizes_of
from archc.analysis.fitting.ranks import spearman
from archc.analysis.fitting.runs import Runs
from archc.analysis.fitting.threads import single_threaded
from archc.analysis.laws.chinchilla import EPOCH
from archc.analysis.laws.conditional import SMALL
from archc.cli import main
from tests.support import check_refused

TRUTH = np.array([EPOCH.E, math.log(EPOCH.A), math.log(EPOCH.B), EPOCH.alpha, EPOCH.beta])
SHAPE_TRUTH = np.array(list(conditional.values(SMALL).values()))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["fit", *arguments], env={"COLUMNS": "110"})


def budgets(seed: int, noise: float = 0.005) -> Runs:
    """Seven sizes at each of six compute budgets, their losses with noise."""
    source = np.random.default_rng(seed)
    flops, factor = np.meshgrid(np.logspace(18.5, 21.5, 6), np.logspace(-0.8, 0.8, 7))
    sizes = np.array([EPOCH.optimum(c)[0] for c in flops.ravel()]) * factor.ravel()
    tokens = flops.ravel() / 6 / sizes
    losses = np.array([EPOCH.loss(n, d) for n, d in zip(sizes, tokens, strict=True)])
    losses *= np.exp(source.normal(0, noise, len(losses)))
    return Runs("budgets", {"parameters": sizes, "tokens": tokens, "loss": losses})


def shapes(seed: int, noise: float = 0.002) -> Runs:
    """Thirty shapes of each of three sizes, which they meet to a percent; losses with noise."""
    source = np.random.default_rng(seed)
    rows = []
    for size, best in ((80e6, 3.2), (145e6, 3.05), (297e6, 2.9)):
        for x in (0.04, 0.055, 0.07, 0.085, 0.11, 0.14):
            for r in (0.6, 1, 1.8, 3, 4.8):
                n = size * math.exp(source.uniform(-0.01, 0.01))
                loss = best * SMALL.multiplier(x, r) * (1 + source.normal(0, noise))
                rows.append((n, 100 * size, x * math.sqrt(n), r, loss))
    return Runs("shapes", dict(zip(conditional.COLUMNS, np.array(rows).T, strict=True)))


def written(path: Path, columns: Mapping[str, Vector]) -> Path:
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines))
    return path


def test_chinchilla_is_recovered_exactly_without_noise() -> None:
    law = fit_chinchilla(budgets(0, noise=0), bootstrap=2).law
    found = [law.E, math.log(law.A), math.log(law.B), law.alpha, law.beta]
    assert found == pytest.approx(list(TRUTH), rel=1e-4)


def test_the_conditional_law_is_recovered_exactly_without_noise() -> None:
    fit = fit_conditional(shapes(0, noise=0), bootstrap=2)
    assert list(conditional.values(fit.law).values()) == pytest.approx(list(SHAPE_TRUTH), rel=1e-6)
    assert fit.law.multiplier(*fit.law.optimum) == pytest.approx(1, abs=1e-12)
    assert fit.rank == pytest.approx(1)


def test_noisy_runs_give_nearly_the_law_and_rank_runs_that_were_held_out() -> None:
    fit = fit_chinchilla(budgets(3), bootstrap=40)
    assert (fit.law.alpha, fit.law.beta) == (pytest.approx(0.3478, abs=0.03), pytest.approx(0.3658, abs=0.03))
    assert fit.law.optimum(1e21)[0] == pytest.approx(EPOCH.optimum(1e21)[0], rel=0.15)
    assert fit.rank is not None
    assert fit.rank > 0.85
    assert fit.problems == ()
    error = fit.law.error_of(lambda law: law.loss(1e9, 2e10))
    assert error is not None
    assert 1e-4 < error < 0.01
    other = fit_conditional(shapes(3), bootstrap=40)
    assert other.law.optimum == (pytest.approx(0.08, abs=0.005), pytest.approx(1.03, abs=0.15))
    assert other.rank > 0.85
    assert other.problems == ()


def test_a_start_far_away_does_not_change_the_fit() -> None:
    """The gradient is that of the objective, and outliers weigh little."""
    runs = budgets(1)
    objective = chinchilla._objective(runs)
    point = np.array([0.5, -0.5, -0.2, 0.4, 0.3])
    _, gradient = objective(point)
    for i, step in enumerate(1e-6 * np.eye(5)):
        slope = (objective(point + step)[0] - objective(point - step)[0]) / 2e-6
        assert gradient[i] == pytest.approx(slope, rel=1e-4)
    spoiled = Runs(
        "spoiled", {**runs.columns, "loss": runs["loss"] * np.where(np.arange(len(runs)) == 5, 1.3, 1)}
    )
    clean, outlier = (fit_chinchilla(each, bootstrap=2).law for each in (runs, spoiled))
    assert outlier.loss(1e9, 2e10) == pytest.approx(clean.loss(1e9, 2e10), rel=2e-3)


@single_threaded
def coverage(
    runs: Callable[[int], Runs],
    fit: Callable[[Runs], Vector],
    truth: Vector,
    seeds: int,
    draws: int,
    grouped: bool,
) -> dict[float, float]:
    """How often intervals of some levels hold the truth, over seeds and coefficients."""
    found: dict[float, list[bool]] = {0.5: [], 0.9: []}
    for seed in range(seeds):
        given = runs(1000 + seed)
        drawn = resamples(given, fit, draws, seed, sizes_of(given) if grouped else None)
        for level, held in found.items():
            held += [value in interval(column, level) for value, column in zip(truth, drawn.T, strict=True)]
    return {level: sum(held) / len(held) for level, held in found.items()}


def chinchilla_coverage(seeds: int, draws: int) -> dict[float, float]:
    return coverage(budgets, lambda drawn: chinchilla._fit(drawn, TRUTH), TRUTH, seeds, draws, grouped=False)


def conditional_coverage(seeds: int, draws: int) -> dict[float, float]:
    def fit(drawn: Runs) -> Vector:
        return conditional._summary(conditional._law_or_none(drawn))

    return coverage(shapes, fit, SHAPE_TRUTH, seeds, draws, grouped=True)


@pytest.mark.parametrize("covered", [chinchilla_coverage, conditional_coverage])
def test_intervals_hold_the_truth_about_as_often_as_they_say(
    covered: Callable[[int, int], dict[float, float]],
) -> None:
    found = covered(12, 40)
    assert 0.7 < found[0.9] <= 1
    assert 0.25 < found[0.5] < 0.75


@pytest.mark.slow
@pytest.mark.parametrize("covered", [chinchilla_coverage, conditional_coverage])
def test_intervals_over_many_seeds(covered: Callable[[int, int], dict[float, float]]) -> None:
    found = covered(150, 150)
    assert 0.83 < found[0.9] < 0.97
    assert 0.41 < found[0.5] < 0.62


def test_runs_of_one_ratio_of_tokens_to_parameters_are_flagged() -> None:
    sizes = np.logspace(8, 10, 20)
    losses = np.array([EPOCH.loss(n, 20 * n) for n in sizes])
    fit = fit_chinchilla(Runs("one ratio", {"parameters": sizes, "tokens": 20 * sizes, "loss": losses}), 20)
    text = " ".join(fit.problems)
    assert "parameters and tokens vary together" in text
    assert "the runs do not determine" in text


def test_runs_of_one_size_are_flagged() -> None:
    tokens = np.logspace(9, 11, 12)
    losses = np.array([EPOCH.loss(1e9, d) for d in tokens])
    fit = fit_chinchilla(
        Runs("one size", {"parameters": np.full(12, 1e9), "tokens": tokens, "loss": losses}), 20
    )
    assert "parameters varies by 1 times only" in " ".join(fit.problems)


def test_shapes_along_one_line_are_flagged() -> None:
    """r that follows x leaves the two curves apart by nothing."""
    runs = shapes(0)
    x = runs["d_model"] / np.sqrt(runs["parameters"])
    line = {**runs.columns, "ratio": 20 * x + 0.1 * (runs["ratio"] == 1)}
    losses = [3 * SMALL.multiplier(a, b) for a, b in zip(x, line["ratio"], strict=True)]
    fit = fit_conditional(Runs("line", {**line, "loss": np.array(losses)}), bootstrap=20)
    assert "vary together" in " ".join(fit.problems)


def test_optima_outside_of_the_runs_and_runs_outside_of_the_law_are_told() -> None:
    runs = shapes(0, noise=0)
    wide = runs.where(runs["d_model"] / np.sqrt(runs["parameters"]) > 0.08)
    assert "outside of the runs'" in " ".join(fit_conditional(wide, bootstrap=20).problems)
    some = Runs("some", {**runs.columns, "ratio": np.where(runs["ratio"] == 4.8, 6.0, runs["ratio"])})
    assert fit_conditional(some, bootstrap=20).dropped == 18


def test_sizes_that_are_met_about_are_one() -> None:
    assert [int((sizes_of(shapes(0)) == label).sum()) for label in range(3)] == [30, 30, 30]


def test_ranks() -> None:
    one = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(one, np.exp(one)) == pytest.approx(1)
    assert spearman(one, -one) == pytest.approx(-1)
    assert spearman(one, np.array([1.0, 1.0, 2.0, 2.0])) == pytest.approx(0.8944, abs=1e-4)
    assert spearman(one, np.ones(4)) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    written(path / "runs.csv", budgets(0).columns)
    written(path / "shapes.csv", shapes(0).columns)
    return path


def test_a_fit_is_told_written_and_used(folder: Path) -> None:
    law = folder / "mine.json"
    result = run(str(folder / "runs.csv"), "--bootstrap", "30", "-o", str(law))
    assert result.exit_code == 0, result.output
    for words in ("fitted to 42 runs", "alpha", "90% interval", "rank correlation"):
        assert words in result.output
    held = json.loads(law.read_text())
    assert held["intervals"]["alpha"]["low"] < held["alpha"] < held["intervals"]["alpha"]["high"]
    scaled = CliRunner().invoke(main, ["scale", "--compute", "1e21", "--fit", str(law), "--json"])
    (plan,) = json.loads(scaled.stdout)["fits"]
    assert plan["parameters"] == pytest.approx(EPOCH.optimum(1e21)[0], rel=0.2)
    assert 1 < plan["parameters_standard_error_factor"] < 1.3
    assert plan["warnings"] == []


def test_a_conditional_fit_is_told_written_and_used(folder: Path, tmp_path: Path) -> None:
    law, spec = folder / "shape.json", tmp_path / "small.arch"
    spec.write_text("import llama\nmodel s = Llama(d = 256, layers = 4, heads = 8, d_ff = 512, vocab = 999)")
    asked = ["--law", "conditional", "--bootstrap", "30"]
    result = run(str(folder / "shapes.csv"), *asked, "-o", str(law), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["intervals"]["x optimum"]["value"] == pytest.approx(0.08, abs=0.006)
    found = CliRunner().invoke(
        main, ["search", str(spec), "--law", str(law), "--width-step", "128", "--groups", "2"]
    )
    assert found.exit_code == 0, found.output
    assert "fitted to 90 runs" in found.output


def test_predictions_outside_of_the_runs_must_be_asked_for(folder: Path) -> None:
    runs = [str(folder / "runs.csv"), "--bootstrap", "20"]
    inside = run(*runs, "--params", "1B", "--tokens", "20B", "--json")
    predicted = json.loads(inside.stdout)["prediction"]
    assert predicted["low"] < predicted["value"] < predicted["high"]
    assert predicted["value"] == pytest.approx(EPOCH.loss(1e9, 2e10), rel=5e-3)
    far = ("--params", "700B", "--tokens", "15T")
    refused = run(*runs, *far)
    assert refused.exit_code == 1
    assert "outside of the fit's" in refused.output
    assert "--extrapolate answers anyway" in refused.output
    assert "extrapolated" in run(*runs, *far, "--extrapolate").output


def test_columns_of_other_titles_and_numbers_with_suffixes(tmp_path: Path) -> None:
    given = budgets(0)
    path = written(
        tmp_path / "runs.csv", {"N": given["parameters"], "tokens": given["tokens"], "val": given["loss"]}
    )
    path.write_text(path.read_text().replace("\n", "\n", 1) + "\n1B,20B,2.53\n\n")
    result = run(str(path), "--column", "parameters=N", "--column", "loss=val", "--bootstrap", "20")
    assert result.exit_code == 0, result.output
    assert "fitted to 43 runs" in result.output


HEADER = "parameters,tokens,loss\n"
ROWS = "".join(f"{n}e8,{d}e9,{3 + n / 10 - d / 10}\n" for n in (1, 2, 3) for d in (1, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (HEADER, "0 runs cannot determine 5 coefficients"),
        ("parameters,token,loss\n" + ROWS, "has no column `tokens`; did you mean `token`?"),
        ("a,b\n1,2\n", "has no column `parameters`; it has a, b"),
        ("loss,loss\n1,2\n", "has two columns `loss`"),
        (HEADER + ROWS + "1e9,1e10,good\n", "row 8: `loss` must be a positive number, not `good`"),
        (HEADER + ROWS + "1e9,-1e10,2\n", "row 8: `tokens` must be a positive number"),
        (HEADER + ROWS + "1e9,nan,2\n", "row 8: `tokens` must be a positive number"),
        (HEADER + ROWS + "1e9,2\n", "row 8 has 2 cells where the header has 3"),
    ],
)
def test_broken_runs_get_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    check_refused(run(str(path)), message)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("nowhere.csv",), 1, "cannot read nowhere.csv"),
        (("{runs}", "--law", "kaplan"), 2, "--law"),
        (("{runs}", "--params", "1B"), 2, "go together"),
        (("{runs}", "--column", "loss"), 1, "--column takes name=TITLE, not `loss`"),
        (("{runs}", "--law", "conditional"), 1, "has no column `d_model`"),
        (
            ("{shapes}", "--law", "conditional", "--params", "1B", "--tokens", "1B"),
            2,
            "with --law chinchilla",
        ),
    ],
)
def test_bad_input_gets_one_sentence(
    folder: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    named = {"runs": folder / "runs.csv", "shapes": folder / "shapes.csv"}
    check_refused(run(*(part.format(**named) for part in arguments)), message, status)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON file"),
        ("[]", "holds no fit of the chinchilla law"),
        ('{"law": "conditional"}', "holds no fit of the chinchilla law"),
        ('{"law": "chinchilla"}', "`parameters` is missing"),
        ('{"law": "chinchilla", "parameters": [1, 2], "tokens": [1, "2"]}', "`tokens` is missing"),
        ('{"law": "chinchilla", "parameters": [1, 2], "tokens": [1, 2], "covariance": [1]}', "`covariance`"),
    ],
)
def test_broken_laws_get_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "law.json"
    path.write_text(text)
    result = CliRunner().invoke(main, ["scale", "--compute", "1e20", "--fit", str(path)])
    assert result.exit_code == 1, result.output
    assert message in result.output


def test_a_missing_scipy_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    result = run(str(folder / "runs.csv"))
    assert result.exit_code == 1
    assert "pip install 'archc-compiler[analysis]'" in result.output
