"""`archc verify`: everything holds for every family, and what is off is found."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from archc import compiler, verification
from archc.codegen.emit import Origin
from archc.compiler import Compilation
from archc.errors import ArchcError
from archc.ir.graph import Graph
from archc.ir.hashing import structural_hash
from archc.passes.context import Context
from archc.passes.pipeline import run_passes, stages
from archc.target import CUDA
from archc.verification.cases import cases
from archc.verification.packages import check_package
from archc.verification.stages import check_stages
from archc.verification.verify import verify
from tests.support import ROOT, SPECS, compile_model, few

ODD, ATTENTION = (Path(__file__).with_name(f"{name}.arch") for name in ("odd", "attention"))
TINY = sorted(path.stem for path in SPECS.glob("*.arch") if f"model {path.stem}_tiny" in path.read_text())
MODELS = few([(SPECS / f"{family}.arch", f"{family}_tiny") for family in TINY], 4)
MODELS += [(path, model) for path in (ODD, ATTENTION) for model in compiler.read_spec_file(path).models]


@pytest.mark.parametrize(("spec", "model"), MODELS, ids=lambda value: value if isinstance(value, str) else "")
def test_packages_hold(spec: Path, model: str) -> None:
    outcomes = list(check_package(compile_model(spec, model)))
    assert [outcome for outcome in outcomes if not outcome.holds] == []
    assert {outcome.subject for outcome in outcomes} == {"Model", "Reference"}


@pytest.mark.parametrize(
    "scaling",
    [
        "dynamic(factor = 3, original = 16)",
        "longrope(short = [1.0, 1.1, 1.2], long = [1.0, 2.5, 6.0], original = 16, factor = 8)",
    ],
)
def test_positions_that_depend_on_the_length_hold(scaling: str) -> None:
    rope = {"rope": f"rope(theta = 10000, width = 6, pairing = interleaved, scaling = {scaling})"}
    outcomes = list(check_package(compile_model(SPECS / "llama3.arch", "llama3_tiny", rope)))
    assert all(outcome.holds for outcome in outcomes)
    assert any(outcome.case == "35 tokens, in pieces" for outcome in outcomes)


def test_what_leaves_the_range_of_a_dtype_is_not_off(tmp_path: Path) -> None:
    """Float32 overflows for any weights, float64 for those with outliers: nothing can be said there."""
    spec = tmp_path / "large.arch"
    powers = "".join("x = x ** 2\n" for _ in range(8))
    forward = f"forward(x: float[B, T, 16]) {{ x = linear(x, 16) as p\n{powers} return y = x }}"
    spec.write_text(f"arch A() {{ {forward} }}\nmodel a = A()")
    assert verify(spec, None, (), each_pass=False)


@pytest.mark.parametrize(
    ("computed", "told"),
    [
        (
            "embedding(exclusive_or(tokens, tokens * 0 + 16), 9, 4) as a",
            r"`embedding`: \d+ is looked up in a",
        ),
        (
            "gather(embedding(tokens, 9, 4) as a, whole(ones(embedding(tokens, 9, 4) as c) + 20))",
            "`gather`: ",
        ),
        (
            "squeeze(matmul(upcast(unsqueeze(embedding(tokens, 9, 4) as a)), "
            "upcast(unsqueeze(unsqueeze(tokens)))))",
            "`matmul`: in float64, whole numbers",
        ),
    ],
)
def test_what_arithmetic_cannot_go_on_from_is_told(computed: str, told: str, tmp_path: Path) -> None:
    spec = tmp_path / "outside.arch"
    forward = f"forward(tokens: [B, T]) {{\n return linear({computed}, 9, wide = true) as b }}"
    spec.write_text(f"arch A() {{ {forward} }}\nmodel a = A()")
    with pytest.raises(ArchcError, match=rf"outside\.arch:2:\d+: error: {told}"):
        verify(spec, None, (), each_pass=False)


def test_a_spec_that_gives_no_number_is_told_from_a_pass_that_does(tmp_path: Path) -> None:
    """Where padding stands first no token has come yet: a mean so far is 0 / 0, which attention reads."""
    spec = tmp_path / "means.arch"
    spec.write_text("""arch A() { forward(tokens: [B, T]) {
      x = upcast(embedding(tokens, 9, 8) as embed)
      sums, count = linear_recurrence(x), linear_recurrence(ones(x))
      mean = split_heads(sums / count, 1)
      return linear(merge_heads(attention(mean, mean, mean, mask = causal)), 9, wide = true) as head } }
      model a = A()""")
    program = compile_model(spec, "a").program
    found = [each for each in check_stages(program, Context((), CUDA), each_pass=True) if not each.holds]
    assert [(each.subject, each.case) for each in found] == [("before any pass", "padding on the left")]
    assert found[0].detail == f"op `div` ({spec}:4) gives no number"


def test_experts_in_turn_do_not_shorten_sequences() -> None:
    """Their numbers are remainders of positions, which are small wherever a token is."""
    spec = """
      arch Turns(d = 8) { forward(tokens: [B, T]) {
        x = embedding(tokens, 9, d) as embed
        chosen = unsqueeze(positions(x) - 2 * whole_quotient(positions(x), 2))
        return experts e in chosen of 2 as experts { return linear(x, d) as map }
      } }
      model turns = Turns()"""
    lengths = [case.given[0].shape[1] for case in cases(compile_model(spec, "turns").program.graph)]
    assert max(lengths) == 19


def test_a_step_may_join_its_token_and_its_states() -> None:
    """States start as those of one sequence, and are joined with a token of each."""
    spec = """
      arch Joined(d = 8) { forward(tokens: [B, T]) {
        x = embedding(tokens, 9, d) as embed
        return scan x from (h: [4] = 0) {
          h = tanh(linear(concat(x, h), 4) as step)
          return h
        }
      } }
      model joined = Joined()"""
    assert [outcome for outcome in check_package(compile_model(spec, "joined")) if not outcome.holds] == []


def test_no_token_comes_twice_where_scores_choose_keys() -> None:
    """Its keys would have equal scores, and rounding would choose others in a cache than without one."""
    graph = compile_model(ROOT / "tests" / "interop" / "families" / "doge.arch", "doge").program.graph
    several = [tokens for case in cases(graph) if "equal" not in case.name for tokens in case.tokens]
    assert all(len(tokens.unique()) == len(tokens) for tokens in several)


@pytest.mark.parametrize(
    "place", ["minimum(positions(x), 2)", "0 * positions(x) + 2", "whole_quotient(positions(x), 9)"]
)
def test_positions_that_stay_within_a_table_do_not_shorten_sequences(place: str) -> None:
    spec = f"""arch Within(d = 8) {{ forward(tokens: [B, T]) {{
        x = embedding(tokens, 9, d) as embed
        return linear(x + embedding({place}, 3, d) as places, 9) as head
      }} }}
      model within = Within()"""
    lengths = [case.given[0].shape[1] for case in cases(compile_model(spec, "within").program.graph)]
    assert max(lengths) == 19


@pytest.mark.parametrize(("most", "checked"), [(1, set()), (5, {"loss", "greedy tokens"})])
def test_a_table_of_few_positions_holds(most: int, checked: set[str]) -> None:
    spec = f"""arch Few(d = 8) {{ forward(tokens: [B, T]) {{
        x = embedding(tokens, 9, d) as embed
        return linear(x + embedding(positions(x), {most}, d) as places, 9) as head
      }} }}
      model few = Few()"""
    outcomes = list(check_package(compile_model(spec, "few")))
    assert all(outcome.holds for outcome in outcomes)
    assert {outcome.check for outcome in outcomes} & {"loss", "greedy tokens"} == checked


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_both_targets_hold(target: str) -> None:
    outcomes = list(check_package(compile_model(SPECS / "qwen3.arch", "qwen3_tiny", target=target)))
    assert all(outcome.holds for outcome in outcomes)


@pytest.mark.parametrize(
    ("file", "right", "wrong", "found"),
    [
        ("kernels.py", "F.silu(g) * u", "F.silu(u) * g", {"float64", "float32", "loss"}),
        ("kernels.py", "s = residual + x", "s = residual - x", {"float64", "float32", "loss"}),
        ("model.py", "attention(q, k, v,", "attention(q, k, k,", {"float64"}),
        ("runtime.py", "self.length = span.key_positions.shape[1]", "self.length += 0", {"refused"}),
        ("runtime.py", "(seen + real.cumsum(1) - 1)", "(real.cumsum(1) - 1)", {"cache"}),
        ("runtime.py", "documents != documents.roll(1, 1)", "documents < 0", {"documents"}),
        ("runtime.py", "(key >= 0)", "(key >= -1)", {"float64", "float32"}),
        ("model.py", "q_proj.weight", "k_proj.weight", {"refused"}),
    ],
)
def test_a_damaged_package_is_found(
    file: str, right: str, wrong: str, found: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = compiler.package_files

    def damaged(compilation: Compilation, origin: Origin) -> dict[str, str]:
        files = original(compilation, origin)
        assert right in files[file]
        files[file] = files[file].replace(right, wrong)
        return files

    monkeypatch.setattr(compiler, "package_files", damaged)
    try:
        outcomes = list(check_package(compile_model(SPECS / "llama3.arch", "llama3_tiny")))
    except (ValueError, RuntimeError):
        assert found == {"refused"}
        return
    assert found <= {outcome.check for outcome in outcomes if not outcome.holds}


def test_another_fusion_of_the_same_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pass has left as it was is not run again, and a graph with such a fusion looks as it was."""
    gated = "fuse gated(a, b) {{ return silu({}) * {} }}"
    arch = (
        "arch A() { forward(x: float[B, T, 8]) { return y = silu(x) * (linear(x, 8) as p) } } model a = A()"
    )
    right, wrong = (compiler.read_spec_text(gated.format(*order) + arch) for order in ("ab", "ba"))
    (program,) = compiler.lower_models(right, ["a"])

    def damaged(graph: Graph, context: Context) -> Iterator[tuple[str, Graph]]:
        yield from stages(graph, context)
        exchanged = run_passes(graph, context)
        (node,) = (node for node in exchanged.nodes() if node.op.name == "gated")
        exchanged.update(node, op=wrong.rules[-1].op)
        yield "exchange", exchanged

    monkeypatch.setattr(verification.stages, "stages", damaged)
    outcomes = check_stages(program, Context(right.rules, CUDA), each_pass=True)
    assert {outcome.subject for outcome in outcomes if not outcome.holds} == {"after exchange"}


def test_passes_that_change_nothing_have_no_rows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification.verify, "check_package", lambda _: ())
    assert verify(SPECS / "gpt2.arch", "gpt2_tiny", (), each_pass=True)
    program = compile_model(SPECS / "gpt2.arch", "gpt2_tiny").program
    context = Context(compiler.read_spec_file(SPECS / "gpt2.arch").rules, CUDA)
    graphs = [(name, structural_hash(graph)) for name, graph in stages(program.graph, context)]
    changed = [after for (_, old), (after, new) in pairwise(graphs) if new != old]
    assert 1 < len(changed) < len(graphs) - 1
    shown = re.findall(r"after (\w+) +│ float64", capsys.readouterr().out)
    assert [name for name in shown if name in changed] == changed
    assert len(shown) - len(changed) in (0, 1), "the first pass is shown, too"


def test_the_table_and_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(SPECS / "gpt2.arch", "gpt2_tiny", (), each_pass=False)
    shown = capsys.readouterr().out
    assert "gpt2_tiny" in shown
    assert "gradients" in shown
    assert "none off" in shown


def test_large_models_are_left_out_with_the_reason() -> None:
    command = [sys.executable, "-m", "archc", "verify", "specs/llama3.arch", "--model", "llama3_8b"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "8,030,261,248 parameters" in result.stdout
    assert "--set layers=2" in result.stderr
