"""A block of experts beside transformers' own: decode and prefill, with random weights.

    python benchmarks/moe_block.py [--seconds SECONDS] [--threads COUNT] [--device NAME] [--save]

The block of moe_block.arch is timed against transformers' block of Qwen3-MoE on the same weights, with the
implementation of experts that it takes by default, grouped_mm, and with its loop.  On a GPU it has the sizes
of Qwen3-30B-A3B in bfloat16, on a CPU its proportions in float32.  `--save` writes figures to
benchmarks/results/DEVICE/moe_block.json, and the page of all figures again.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import torch
from run import PAGE, ROOT, write_page
from torch import Tensor, nn

from archc import compiler
from archc.benchmarking.probes import measure_rates
from archc.benchmarking.results import (
    OURS,
    Case,
    Findings,
    Result,
    Subject,
    describe_device,
    environment,
    write_json,
)
from archc.benchmarking.scale import choose_device
from archc.benchmarking.table import print_result
from archc.benchmarking.timing import Run, own_stream, timer_for
from archc.benchmarking.turn import Bench
from archc.console import output
from archc.target import TARGETS
from archc.verification.packages import import_package

RESULTS = ROOT / "benchmarks" / "results"
SPEC = Path(__file__).with_suffix(".arch")
PEERS = {"Hugging Face, grouped_mm": "grouped_mm", "Hugging Face, loop": "eager"}
Settings = Mapping[str, int]
Sizes = Sequence[tuple[str, int, int]]  # B and T
_INPUTS = 16  # that calls take turns with: other tokens choose other experts
_AGREES = {torch.float32: 1e-5, torch.bfloat16: 0.1}  # relative; near choices may fall otherwise


class Scale(NamedTuple):
    """What is timed on a kind of device; settings are parameters of the spec."""

    dtype: torch.dtype
    settings: Settings
    sizes: Sizes


CPU = Scale(
    torch.float32,
    {"d": 512, "experts": 128, "choices": 8, "d_ff": 192},
    (("decode", 1, 1), ("decode", 8, 1), ("prefill", 1, 64), ("prefill", 1, 512)),
)
GPU = Scale(
    torch.bfloat16,
    {"d": 2048, "experts": 128, "choices": 8, "d_ff": 768},
    (("decode", 1, 1), ("decode", 8, 1), ("decode", 128, 1), ("prefill", 1, 8192)),
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=20.0, show_default=True, help="For each case and each peer.")
@click.option("--threads", type=int, help="As many as there are cores without it.")
@click.option("--device", help="cpu or cuda; the GPU, if there is one, without it.")
@click.option("--save", is_flag=True, help="Write the figures and the page.")
def main(seconds: float, threads: int | None, device: str | None, save: bool) -> None:
    """Time a block of experts beside transformers' own."""
    if threads:
        torch.set_num_threads(threads)
    chosen = choose_device(device)
    result = measure(seconds, chosen, GPU if chosen.type == "cuda" else CPU)
    print_result(result, output())
    if save:
        write_json([result], RESULTS / chosen.type / "moe_block.json")
        write_page(PAGE, RESULTS)


def measure(seconds: float, device: torch.device, scale: Scale) -> Result:
    """All cases against all peers."""
    timer, settings = timer_for(device), scale.settings
    rates = measure_rates(device, scale.dtype, timer, time.perf_counter, seconds / 2)
    bench = Bench(device, scale.dtype, timer, time.perf_counter, rates, seconds)
    block = _block(settings).to(device, scale.dtype)
    peers = {peer: _transformers(block, settings, name) for peer, name in PEERS.items()}
    findings = Findings()
    with torch.no_grad(), own_stream(device):
        turns = itertools.product(scale.sizes, peers.items())
        for number, ((name, batch, tokens), (peer, other)) in enumerate(turns):
            inputs = [
                torch.randn(batch, tokens, settings["d"], device=device).to(scale.dtype)
                for _ in range(_INPUTS)
            ]
            _check(peer, block(inputs[0]), other(inputs[0]))
            case = Case("model", name, {"B": batch, "T": tokens}, batch * tokens)
            contenders = {OURS: partial(_calls, block, inputs), peer: partial(_calls, other, inputs)}
            findings.extend(bench.turn(case, contenders, number, together=True, memory=True))
    count = sum(parameter.numel() for parameter in block.parameters())
    dtype = str(scale.dtype).removeprefix("torch.")
    subject = Subject(SPEC.name, "moe_block", settings, dtype, None, None, count)
    return Result(subject, describe_device(device), rates, seconds, findings, environment())


def _block(settings: Settings) -> nn.Module:
    """The generated block, with its native code and random weights."""
    spec = compiler.read_spec_file(SPEC)
    texts = {name: str(value) for name, value in settings.items()}
    (program,) = compiler.lower_models(spec, ["moe_block"], texts)
    with tempfile.TemporaryDirectory() as folder:
        package = import_package(compiler.compile_program(program, spec.rules, TARGETS["cuda"]), Path(folder))
        package.native.build()
    block = package.Model().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in block.parameters():
        parameter.normal_(std=0.02, generator=generator)
    return block


def _transformers(block: nn.Module, settings: Settings, implementation: str) -> nn.Module:
    """transformers' block on the same weights, whose memory it shares."""
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    config = Qwen3MoeConfig(
        hidden_size=settings["d"],
        moe_intermediate_size=settings["d_ff"],
        num_experts=settings["experts"],
        num_experts_per_tok=settings["choices"],
        norm_topk_prob=True,
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        made = Qwen3MoeSparseMoeBlock(config)
    experts = {f"experts.{name}": getattr(block, name) for name in ("gate_up_proj", "down_proj")}
    made.load_state_dict({"gate.weight": block.gate, **experts}, assign=True)
    return made.requires_grad_(False).eval()


def _check(peer: str, found: Tensor, theirs: Tensor) -> None:
    """Nothing is timed that does not compute the same."""
    off = float((found - theirs).norm() / theirs.norm())
    limit = _AGREES[found.dtype]
    if off > limit:
        raise click.ClickException(f"{peer} is {off:.1e} from the generated block, more than {limit:g}")


def _calls(block: nn.Module, inputs: Sequence[Tensor]) -> Run:
    """A call, on the next of the inputs each time."""
    turns = itertools.cycle(inputs)
    return lambda: block(next(turns))


if __name__ == "__main__":
    main()
