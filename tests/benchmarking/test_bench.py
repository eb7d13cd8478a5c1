"""What a run consists of, and what it writes: by clocks that do not run, so that no time is ever asserted."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from archc import compiler
from archc.benchmarking import bench as module
from archc.benchmarking import kernel_cases, model_cases
from archc.benchmarking.bench import ModelRun, Options, bench_model, least_layers
from archc.benchmarking.contenders import Package
from archc.benchmarking.kernel_peers import APART, BY_DYNAMO, FUSED, OP_BY_OP
from archc.benchmarking.kernel_peers import LIGER as LIGER_KERNEL
from archc.benchmarking.kernel_places import places
from archc.benchmarking.markdown import page
from archc.benchmarking.models import COMPILED, EAGER, LIGER, PEERS, REFERENCE
from archc.benchmarking.plan import NO_TIME
from archc.benchmarking.plot import draw
from archc.benchmarking.probes import Rates
from archc.benchmarking.results import OURS, Result, from_json, pairs, read_json, write_json
from archc.benchmarking.scale import CPU, Scale
from archc.benchmarking.table import print_result
from archc.benchmarking.timing import ClockTimer
from archc.benchmarking.turn import Bench
from archc.cli import main
from archc.verification.packages import import_package
from tests.benchmarking.clocks import Ticking
from tests.support import SPECS, check_refused, compile_model, few, read_spec

DEVICE = torch.device("cpu")
TINY = Scale(prompt=8, batches=(1, 2), context=8, rows=(2, 8), share=0.3)
SPEC_FILES = [path for path in sorted(SPECS.glob("*.arch")) if "\nmodel " in path.read_text()]
DECLARED = [(path, model) for path in SPEC_FILES for model in read_spec(path).module.models.values()]
FIRST = {model.arch: (path, model.name) for path, model in reversed(DECLARED)}.values()


def model_run(path: Path, name: str, folder: Path, **options: int) -> ModelRun:
    """The run of a model, nothing of it timed or allocated."""
    clock = Ticking()
    bench = Bench(DEVICE, torch.float32, ClockTimer(clock), clock, Rates(1e10, 1e11), 0.1)
    return ModelRun(read_spec(path), name, Options({}, 60.0, **options), CPU, bench, folder)


@pytest.mark.parametrize(("path", "name"), few(FIRST, 8), ids=lambda value: getattr(value, "stem", value))
def test_every_architecture_has_all_cases(path: Path, name: str, tmp_path: Path) -> None:
    """By its first model, from which others differ in numbers."""
    run = model_run(path, name, tmp_path)
    tasks, skipped = run.tasks()
    assert skipped == []
    whole = [task for task in tasks if task.peer in PEERS]
    assert {task.case.partition(",")[0] for task in whole} == {"decode", "prefill", "training step"}
    assert len(whole) == (len(CPU.batches) + 2) * len(PEERS)
    kernels = {task.case.split()[0] for task in tasks if task.peer == OP_BY_OP}
    assert kernels == {place.name for place in places(run.compilation)}
    assert {task.peer for task in tasks} >= {*PEERS, OP_BY_OP, BY_DYNAMO}
    assert all(task.estimate > 0 for task in tasks)


ENCODER = """
arch Encoder(d = 24, heads = 2, layers = 2, vocab = 50) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, vocab, d) as embed
    for i in 0..layers as layers {
      q, k, v = split(linear(layer_norm(x, 1e-6) as norm, 3 * d) as qkv, 3)
      o = attention(split_heads(q, heads), split_heads(k, heads), split_heads(v, heads), mask = full)
      x = x + linear(merge_heads(o), d) as out
    }
    return linear(x, vocab) as head
  }
}
model encoder = Encoder()
"""


def test_an_encoder_has_all_cases_but_decoding(tmp_path: Path) -> None:
    spec = tmp_path / "encoder.arch"
    spec.write_text(ENCODER)
    run = model_run(spec, "encoder", tmp_path)
    tasks, skipped = run.tasks()
    assert [skip.case for skip in skipped] == ["decode"]
    whole = {task.case.partition(",")[0] for task in tasks if task.peer in PEERS}
    assert whole == {"prefill", "training step"}
    kernels = {task.case.split()[0] for task in tasks if task.peer == OP_BY_OP}
    assert kernels == {place.name for place in places(run.compilation)}
    package = import_package(run.compilation, tmp_path)
    logits = Package(OURS, package.Model()).prefill(torch.ones(1, 5, dtype=torch.int64))()
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (1, 5, 50)


CAPTIONS = """
arch Captions(d = 24, vocab = 50) {
  forward(frames: float[B, N, 24], tokens: [B, T]) {
    x = split_heads(embedding(tokens, vocab, d) as embed, 2)
    o = attention(x, split_heads(frames, 2), split_heads(frames, 2), full)
    return linear(merge_heads(o), vocab) as head
  }
}
model captions = Captions()
"""


def test_a_decoder_of_frames_is_not_timed_on_tokens(tmp_path: Path) -> None:
    spec = tmp_path / "captions.arch"
    spec.write_text(CAPTIONS)
    tasks, (skipped,) = model_run(spec, "captions", tmp_path).tasks()
    assert not tasks
    assert "does not turn tokens alone into logits" in skipped.reason


@pytest.fixture(scope="module")
def result() -> Result:
    """A run in which nothing is too long for the budget but what has to be compiled."""
    clock = Ticking(0.05)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TIMING", 0.0)
        patch.setattr(module, "_PROBES", 0.0)
        for cases in (model_cases, kernel_cases):
            patch.setattr(cases, "_COMPILING", 1e9)
        return bench_model(
            compiler.read_spec_file(SPECS / "smollm2.arch"),
            "smollm2_tiny",
            Options({"d_ff": "112"}, 500.0),
            DEVICE,
            TINY,
            clock=clock,
            timer=ClockTimer(clock),
        )


def test_both_sides_of_each_turn_are_there(result: Result) -> None:
    found = pairs(result.findings)
    whole = [pair for pair in found if pair.ours.case.kind == "model"]
    assert {pair.ours.case.title for pair in whole} == {
        "decode, B 1, S 8",
        "decode, B 2, S 8",
        "prefill, B 1, T 8",
        "training step, B 2, T 8",
    }
    assert {pair.theirs.contender for pair in whole} == {EAGER, REFERENCE}
    assert len(whole) == 4 * 2
    assert {pair.theirs.contender for pair in found} == {EAGER, REFERENCE, OP_BY_OP, FUSED}
    for pair in found:
        assert pair.ours.contender == OURS
        assert pair.ours.turn == pair.theirs.turn
        assert pair.ours.relative == 1.0
        assert pair.theirs.relative == pytest.approx(pair.ratio)


def test_what_is_left_out_is_told(result: Result) -> None:
    """Native code takes a layer's token in one call, in which there are no kernels to be timed."""
    no_gpu, no_call = "Liger's kernels run on a GPU only", "the model does not call it here"
    skipped = {(skip.peer, skip.reason) for skip in result.findings.skipped}
    elsewhere = {(s.peer, s.reason) for s in result.findings.skipped if ", S 8" not in s.case}
    assert elsewhere == {(LIGER, no_gpu), (LIGER_KERNEL, no_gpu), (COMPILED, NO_TIME), (BY_DYNAMO, NO_TIME)}
    assert skipped - elsewhere == {(peer, no_call) for peer in (APART, OP_BY_OP, FUSED, LIGER_KERNEL)}
    assert all(skip.case for skip in result.findings.skipped)


def test_json_tells_everything(result: Result, tmp_path: Path) -> None:
    write_json([result], tmp_path / "out.json")
    (record,) = json.loads((tmp_path / "out.json").read_text())
    assert {"date", "commit", "versions", "device", "probes", "budget", "subject"} <= set(record)
    assert {"torch", "triton", "transformers", "liger-kernel"} <= set(record["versions"])
    assert record["subject"]["settings"] == {"d_ff": "112"}
    for entry in record["measurements"]:
        assert entry["times"]["median"] > 0
        assert entry["times"]["count"] >= 1
        assert {"spread", "count"} <= set(entry["times"])
        assert entry["tokens_per_second"] > 0
        assert entry["fraction"] > 0
        assert entry["case"]["bytes"] > 0
        assert entry["case"]["flops"] > 0
        assert (entry["peak"] is None) == (entry["case"]["kind"] == "kernel")
    assert read_json(tmp_path / "out.json") == [from_json(record)]
    assert from_json(record).findings == result.findings


def test_a_table_a_page_and_a_plot_tell_every_pair(result: Result, tmp_path: Path) -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    print_result(result, console)
    texts = [console.export_text(), page([result])]
    draw([result], tmp_path / "plot.svg")
    for pair in pairs(result.findings):
        for text in texts:
            assert pair.ours.case.title in text
            assert pair.theirs.contender in text
    assert all("GPU only" in text for text in texts)
    assert f"torch {result.environment['versions']['torch']}" in texts[1]
    assert (tmp_path / "plot.svg").stat().st_size > 10_000


def test_layers_are_as_many_as_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "free_memory", lambda _device: 24 << 30)
    run = model_run(SPECS / "llama3.arch", "llama3_8b", tmp_path)
    assert run.all_layers == 32
    assert run.layers is not None
    assert 1 <= run.layers < 32
    assert run.subject.parameters * 4 <= CPU.share * (24 << 30)
    assert "of 32 layers" in run.subject.title
    assert model_run(SPECS / "llama3.arch", "llama3_8b", tmp_path, layers=3).layers == 3


@pytest.mark.parametrize(
    ("spec", "model", "least"), [("llama3", "llama3_8b", 1), ("smollm3", "smollm3_3b", 4)]
)
def test_fewer_layers_still_have_each_kind(spec: str, model: str, least: int) -> None:
    assert least_layers(compile_model(SPECS / f"{spec}.arch", model)) == least


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "llama3_9b"], "did you mean `llama3_8b`?"),
        (["--device", "tpu"], "give cpu or cuda"),
        (["--peer", "vllm"], "`Hugging Face, compiled`, `archc, two kernels`, `PyTorch"),
        (["--device", "cuda:99"], "no such device here: cuda:99"),
        (["--budget", "0.5"], "--budget 0.5 is too small"),
        (["--dtype", "float8"], "did you mean `float"),
        (["--layers", "0"], "--layers takes a whole number from 1"),
        (
            ["--layers", "99", "--model", "llama3_tiny"],
            "`llama3_tiny` has 3; for more of them give --set layers=99",
        ),
        (["--plot", "picture.txt"], "a picture is a .png, .svg, .pdf file"),
        (["--set", "layer=2", "--model", "llama3_tiny"], "did you mean `layers`?"),
        (["--config", "/nowhere/config.json"], "no such file or directory: /nowhere/config.json"),
        (["--config", str(SPECS / "llama3.arch")], "llama3.arch:1:1: this is not JSON"),
        (["--model", "llama3_tiny", "--json", "/nowhere/at/all.json"], "cannot write /nowhere/at/all.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_faulty_input(arguments: list[str], message: str) -> None:
    check_refused(CliRunner().invoke(main, ["bench", str(SPECS / "llama3.arch"), *arguments]), message)
