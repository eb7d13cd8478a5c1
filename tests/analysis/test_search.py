"""`archc search` finds the published shapes, fronts that are fronts, and specs that build."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archc import compiler
from archc.analysis.devices import find_device
from archc.analysis.laws.conditional import SMALL
from archc.analysis.parameters import count_parameters
from archc.analysis.pareto import front
from archc.analysis.serving import Workload, serving_rate
from archc.cli import main
from archc.exploration.search_space import Base, Candidate, Grid, Shape, candidate_of, candidates
from archc.exploration.searcher import Search, search
from archc.exploration.variants import Original, Variant, variants_text
from tests.support import SPECS, check_refused

LLAMA = str(SPECS / "llama3.arch")
PANDA, SUREFIRE = Shape(2560, 72, 18, 64, 4096), Shape(2560, 36, 4, 64, 6144)
LOAD = Workload(128, 4096, 1024, "bfloat16", find_device("a100"))
TINY = """import llama
model small = Llama(d = 256, layers = 4, heads = 8, kv_heads = 2, head_dim = 32, d_ff = 768, vocab = 1000)
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["search", *arguments], env={"COLUMNS": "160"})


def base_of(spec: Path | str, model: str) -> Base:
    read = compiler.read_spec_text(spec) if isinstance(spec, str) else compiler.read_spec_file(spec)
    return Base(read, compiler.one_program(read, model), {})


@pytest.fixture(scope="module")
def llama() -> Base:
    return base_of(SPECS / "llama3.arch", "llama3_2_1b")


@pytest.fixture(scope="module")
def found(llama: Base) -> Search:
    """The search of the paper: LLaMA-3.2-1B's size, an A100, prompts of 4096 and answers of 1024."""
    grid = Grid(llama.counts(llama.shape).non_embedding, width_step=512, groups=9)
    return search(llama, SMALL, grid, LOAD)


@pytest.mark.slow
def test_the_loss_optimum_is_like_panda(found: Search) -> None:
    best, panda = found.front[0].candidate, PANDA
    assert best.x == pytest.approx(0.08, abs=0.003)
    assert best.r == pytest.approx(1.03, abs=0.05)
    assert (best.shape.d, best.shape.d_ff) == (panda.d, panda.d_ff)
    assert best.shape.heads + best.shape.kv_heads == pytest.approx(panda.heads + panda.kv_heads, abs=2)


@pytest.mark.slow
def test_shapes_like_surefire_lie_on_the_front(found: Search) -> None:
    like = [point for point in found.front if point.candidate.shape.kv_heads == SUREFIRE.kv_heads]
    near = [p for p in like if (p.candidate.shape.d, p.candidate.shape.heads) == (SUREFIRE.d, SUREFIRE.heads)]
    assert [point.candidate.r for point in near] == [pytest.approx(3.6, abs=0.1)]
    assert near[0].multiplier < found.base.multiplier
    assert near[0].rate > 1.3 * found.base.rate


@pytest.mark.slow
def test_the_base_is_beaten_in_both(found: Search) -> None:
    assert any(p.multiplier < found.base.multiplier and p.rate > found.base.rate for p in found.front)
    assert found.base.multiplier == pytest.approx(1.01572 / 1.00282, abs=1e-5)


@pytest.mark.slow
def test_counts_that_were_interpolated_are_those_of_the_graphs(llama: Base, found: Search) -> None:
    for point in random.Random(0).sample(found.points, 12):
        counted = candidate_of(llama, point.candidate.shape)
        assert counted == Candidate(
            point.candidate.shape, *(pytest.approx(v) for v in list(vars(point.candidate).values())[1:])
        )
        assert counted.parameters == pytest.approx(found.base.candidate.parameters, rel=0.01)


def test_published_shapes_are_in_the_paper_s_places(llama: Base) -> None:
    panda, surefire = candidate_of(llama, PANDA), candidate_of(llama, SUREFIRE)
    assert (panda.x, panda.r) == (pytest.approx(0.0820, abs=5e-5), pytest.approx(1.07, abs=5e-3))
    assert (surefire.x, surefire.r) == (pytest.approx(0.0824, abs=5e-5), pytest.approx(3.60, abs=5e-3))


@pytest.mark.slow
def test_the_front_is_that_of_all_shapes() -> None:
    """Every shape of a small grid is compiled and timed, and each compared with each."""
    base = base_of(TINY, "small")
    load = Workload(16, 256, 128, "bfloat16", find_device("h200"))
    grid = Grid(
        base.counts(base.shape).non_embedding,
        width_step=64,
        groups=3,
        tolerance=0.03,
        widths=(0.75, 1.5),
        d_ff_step=32,
    )
    everything = []
    for each in candidates(base, grid, SMALL.ratios):
        compilation = compiler.compile_program(base.lowered(each.shape), base.spec.rules)
        rate = serving_rate(compilation.reference, compilation.fused, load)
        everything.append((each.shape, SMALL.multiplier(each.x, each.r), rate))
    unbeaten = {
        (loss, rate)
        for _, loss, rate in everything
        if not any((less < loss and r >= rate) or (less <= loss and r > rate) for _, less, r in everything)
    }
    found = search(base, SMALL, grid, load)
    assert len(everything) == found.considered > 30
    assert {(point.multiplier, point.rate) for point in found.front} == unbeaten
    assert len(unbeaten) > 3


def test_fronts_by_brute_force() -> None:
    source = random.Random(0)
    for _ in range(50):
        points = [(source.randrange(12), source.randrange(12)) for _ in range(source.randrange(1, 40))]
        unbeaten = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)}
        found = front(points, cost=lambda p: p[0], gain=lambda p: p[1])
        assert set(found) == unbeaten
        assert found == sorted(unbeaten)


def test_what_is_written_builds_and_can_be_read_back(tmp_path: Path) -> None:
    spec = tmp_path / "tiny.arch"
    spec.write_text(TINY)
    files = {name: tmp_path / name for name in ("all.csv", "front.png", "front.arch")}
    options = [
        "--csv",
        str(files["all.csv"]),
        "--plot",
        str(files["front.png"]),
        "-o",
        str(files["front.arch"]),
    ]
    result = run(str(spec), "--width-step", "64", "--groups", "3", "--batch", "16", *options)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(files["all.csv"].open()))
    best = [row for row in rows if row["front"] == "1"]
    written = compiler.read_spec_file(files["front.arch"])
    assert len(written.models) == len(best)
    for row, program in zip(best, compiler.lower_models(written, written.models), strict=True):
        compiler.compile_program(program, written.rules)
        assert count_parameters(program.graph).non_embedding == int(row["parameters"])
        assert all(str(program.parameters[name]) == row[name] for name in ("d", "heads", "kv_heads", "d_ff"))
    assert CliRunner().invoke(main, ["fmt", "--check", str(files["front.arch"])]).exit_code == 0
    assert files["front.png"].read_bytes()[:4] == b"\x89PNG"
    again = run(str(spec), "--rates", str(files["all.csv"]), "--csv", str(tmp_path / "again.csv"))
    assert again.exit_code == 0, again.output
    assert "measured" in again.output
    reread = [row for row in csv.DictReader((tmp_path / "again.csv").open()) if row["front"] == "1"]
    assert [{**row, "x": "", "r": ""} for row in reread] == [{**row, "x": "", "r": ""} for row in best]


def test_an_arch_of_one_s_own_is_imported_from_beside(tmp_path: Path) -> None:
    text = (SPECS / "llama.arch").read_text().replace("arch Llama", "arch Mine")
    (tmp_path / "mine.arch").write_text(text + TINY.replace("import llama\n", "").replace("Llama", "Mine"))
    options = ["--width-step", "128", "--groups", "2", "--batch", "16"]
    beside, away = tmp_path / "shapes.arch", tmp_path / "away" / "shapes.arch"
    away.parent.mkdir()
    assert run(str(tmp_path / "mine.arch"), *options, "-o", str(beside)).exit_code == 0
    assert compiler.check(compiler.read_spec_file(beside)) > 0
    refused = run(str(tmp_path / "mine.arch"), *options, "-o", str(away))
    assert refused.exit_code == 1
    assert "write the models beside it" in refused.output


HEADER = "d,heads,kv_heads,head_dim,d_ff,tokens_per_second\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (HEADER, "has no measurements"),
        ("d,heads\n1,2\n", "has no column `kv_heads`"),
        (HEADER + "2048,32,8,64,8192\n", "row 2 has 5 cells where the header has 6"),
        (HEADER + "2048,32,8,64,8192,fast\n", "row 2: sizes are whole numbers"),
        (HEADER + "2048,32,8,64,8192,-1\n", "must be positive"),
        (HEADER + "2048,30,8,64,8192,100\n", "30"),
        (HEADER + "2048,4,1,64,8192,100\n", "fitted for MLP / attention parameters of 0.5 to 5"),
        ('d,heads\n"1', "is no CSV file"),
    ],
)
def test_broken_measurements(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(text)
    check_refused(run(LLAMA, "--model", "llama3_2_1b", "--rates", str(path)), message)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((LLAMA,), 1, "has several models"),
        ((LLAMA, "--model", "llama3_2_1b", "--law", "bian"), 1, "no fit `bian` of the conditional law"),
        ((LLAMA, "--model", "llama3_2_1b", "--hardware", "h300"), 1, "no device `h300`"),
        ((LLAMA, "--model", "llama3_2_1b", "--params", "1K"), 1, "no shape of 1,000 parameters"),
        ((LLAMA, "--model", "llama3_2_1b", "--rates", "nowhere.csv"), 1, "cannot read nowhere.csv"),
        ((str(SPECS / "gpt2.arch"), "--model", "gpt2"), 1, "has no parameter"),
        ((LLAMA, "--model", "llama3_2_1b", "--plot", "front.doc"), 1, "a picture is a .png"),
        ((LLAMA, "--groups", "0"), 2, "--groups"),
    ],
)
def test_bad_input_gets_one_sentence(arguments: tuple[str, ...], status: int, message: str) -> None:
    check_refused(run(*arguments), message, status)


def test_a_base_that_the_law_does_not_know_is_shown_without_a_loss(tmp_path: Path) -> None:
    spec = tmp_path / "wide.arch"
    spec.write_text(TINY.replace("d_ff = 768", "d_ff = 2560"))
    result = run(str(spec), "--width-step", "128", "--groups", "2", "--batch", "16")
    assert result.exit_code == 0, result.output
    assert "unknown" in result.output


def test_variants_lie_where_their_model_does() -> None:
    line = "model a = Llama(d = 48, layers = 1, heads = 4, d_ff = 80, vocab = 99) as model -> model.text"
    spec = compiler.read_spec_text(f"import llama\n\n{line}\n")
    (program,) = compiler.lower_models(spec, ["a"])
    text = variants_text(Original(spec, program, {}), [Variant("b", "narrower", {"d": "40"})], None)
    assert text.splitlines()[-1] == line.replace("model a", "model b").replace("48", "40")
