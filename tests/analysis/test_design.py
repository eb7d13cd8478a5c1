"""`archc design`: specs of any size that check, build, and hold what was asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archc import compiler
from archc.analysis.devices import find_device
from archc.analysis.parameters import count_parameters
from archc.analysis.proportions import kv_heads, rope_theta
from archc.cli import main
from archc.errors import Reporter, Source
from archc.exploration.designer import Design, Request, design
from archc.exploration.proposal import proposal
from archc.frontend.format import format_spec
from tests.support import build, check_refused

H200 = find_device("h200")
SIZES = [1e8, 3.6e8, 1e9, 8e9, 7e10, 4e11, 1e12]
MORE = [1.35e8, 2e8, 6e8, 1.5e9, 2e9, 3e9, 5e9, 1.4e10, 3.2e10, 1.1e11, 1.8e11, 7e11]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["design", *arguments])


def check_design(made: Design) -> None:
    shape, asked = made.shape, made.request
    text = proposal(made)
    assert format_spec(Source("design.arch", text), Reporter()) == text
    spec = compiler.read_spec_text(text)
    (program,) = compiler.lower_models(spec, spec.models)
    compiler.compile_program(program, spec.rules)  # and `expect` of its arch is met
    counts = count_parameters(program.graph)
    assert counts.total == made.analysis.parameters.total
    assert abs(counts.total / asked.parameters - 1) < (0.05 if asked.moe else 0.01)
    assert f"{counts.total:,} parameters" in text
    assert shape.heads * shape.head_dim == shape.d
    assert shape.heads % shape.kv_heads == 0
    assert shape.kv_heads & (shape.kv_heads - 1) == 0
    assert all(size % 128 == 0 for size in (shape.d, shape.vocabulary))
    assert shape.d_ff % (64 if shape.experts else 128) == 0
    assert 1.5 <= shape.mlp_ratio <= 7
    comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    arguments = re.findall(r"^  (\w+) = ", text, re.MULTILINE)
    assert len(comments) > 15
    experts = ["experts"] if asked.moe else []
    assert arguments == ["d", "heads", "kv_heads", *experts, "d_ff", "vocab", "tied", "rope"]


@pytest.mark.parametrize("parameters", SIZES)
def test_designs_of_all_sizes(parameters: float) -> None:
    check_design(design(Request(parameters, 8192, H200)))


@pytest.mark.parametrize("parameters", SIZES)
def test_mixtures_of_all_sizes(parameters: float) -> None:
    made = design(Request(parameters, 8192, H200, moe=True))
    check_design(made)
    counts, shape = made.analysis.parameters, made.shape
    assert shape.experts % shape.choices == 0
    assert 0.05 < counts.active / counts.total < 0.4
    assert f"A token uses {counts.active:,} parameters" in proposal(made)


@pytest.mark.slow
@pytest.mark.parametrize("context", [2048, 131072])
@pytest.mark.parametrize("parameters", [*SIZES, *MORE])
@pytest.mark.parametrize("moe", [False, True])
def test_designs_of_more_sizes_and_contexts(parameters: float, context: int, moe: bool) -> None:
    made = design(Request(parameters, context, H200, moe=moe))
    check_design(made)
    fewer_would_do = made.shape.kv_heads > 1 and made.shape.heads / made.shape.kv_heads <= 8
    if fewer_would_do:
        assert made.analysis.kv_cache.bytes <= made.analysis.memory.weights["bfloat16"]


def test_proportions_are_near_published_models() -> None:
    """Llama 3's 8B and 70B, and Qwen3's 0.6B: width, depth and tied tables."""
    for parameters, width, layers, tied in (
        (8e9, 4096, 32, False),
        (70e9, 8192, 80, False),
        (0.6e9, 1024, 28, True),
    ):
        shape = design(Request(parameters, 8192, H200)).shape
        assert shape.d == pytest.approx(width, rel=0.3)
        assert shape.layers == pytest.approx(layers, rel=0.3)
        assert shape.tied is tied


def test_a_longer_context_has_fewer_key_and_value_heads_and_a_larger_base() -> None:
    short, long = (design(Request(1e9, context, H200)).shape for context in (4096, 1 << 18))
    assert long.kv_heads < short.kv_heads
    assert long.theta > 100 * short.theta


@pytest.mark.parametrize(
    ("heads", "expected"), [(1, 1), (6, 2), (10, 2), (12, 4), (28, 4), (32, 8), (64, 8), (128, 8), (224, 16)]
)
def test_key_and_value_heads(heads: int, expected: int) -> None:
    assert kv_heads(heads) == expected


@pytest.mark.parametrize(
    ("context", "theta"), [(512, 10_000), (4096, 50_000), (8192, 100_000), (131072, 10_000_000)]
)
def test_rotary_bases_are_round_and_above_the_bound(context: int, theta: int) -> None:
    assert rope_theta(context) == theta


def test_the_smallest_designs_run(tmp_path: Path) -> None:
    """A package is written from what the command writes, and its numel is what the comments say."""
    path = tmp_path / "small.arch"
    result = run("--params", "3M", "--vocab", "1000", "--context", "256", "--name", "small", "-o", str(path))
    assert result.exit_code == 0, result.output
    total = sum(p.numel() for p in build(path, "small", tmp_path / "out").Model(device="meta").parameters())
    assert f"A dense decoder of {total:,} parameters" in path.read_text().replace("\n# ", " ")
    assert "1,000 rounded up to a multiple of 128" in path.read_text()
    again = run("--params", "4M", "--vocab", "1000", "-o", str(path))
    assert again.exit_code == 1
    assert "is there already and differs" in again.output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "--params"),
        (("--params", "many"), 2, "is no amount"),
        (("--params", "8B", "--context", "0"), 2, "is no number of tokens"),
        (("--params", "8B", "--context", "8B"), 2, "is no number of tokens"),
        (("--params", "8B", "--vocab", "0"), 2, "--vocab"),
        (("--params", "8B", "--hardware", "h300"), 1, "no device `h300`"),
        (("--params", "100"), 1, "no design of 100 parameters"),
        (("--params", "870K", "--vocab", "100", "--moe"), 1, "sizes come in steps; the nearest has 922K"),
        (("--params", "1e39"), 1, "the longest row that a kernel holds; with --moe it is less"),
        (("--params", "10M", "--vocab", "10000000"), 1, "leave too little for layers"),
        (("--params", "8B", "--name", "8b"), 1, "8b"),
        (("--params", "1M", "--vocab", "500", "-o", "/nowhere/model.arch"), 1, "cannot write"),
    ],
)
def test_bad_input_gets_one_sentence(arguments: tuple[str, ...], status: int, message: str) -> None:
    check_refused(run(*arguments), message, status)
