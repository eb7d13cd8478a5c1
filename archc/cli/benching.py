"""`archc bench`: how fast a model is, beside what one would use instead."""

from __future__ import annotations

from pathlib import Path

import click

from archc.cli import options


@click.command()
@options.spec
@options.model
@options.settings
@click.option(
    "--budget", default=600.0, show_default=True, metavar="SECONDS", help="How long a model may take."
)
@click.option("--layers", type=int, metavar="N", help="How many layers; all that fit without it.")
@click.option("--dtype", metavar="NAME", help="float32, bfloat16 or float16.  [on a GPU bfloat16]")
@click.option("--device", metavar="NAME", help="cpu or cuda.  [the GPU, if there is one]")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NAME",
    help="Only peers with this in their names.  [all]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The config.json of Hugging Face's class for the model, or its folder.  [as archc import reads it]",
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all figures."
)
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw them: svg, png or pdf.")
def bench(
    spec: Path,
    model: str | None,
    settings: tuple[str, ...],
    budget: float,
    layers: int | None,
    dtype: str | None,
    device: str | None,
    peers: tuple[str, ...],
    config: Path | None,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Time a model and its kernels against their peers, here.

    A model's peers are its unfused Reference and Hugging Face's class for it: eager, compiled with a static
    cache, and with Liger's kernels.  A kernel's peers are PyTorch op by op, the same compiled, PyTorch's
    fused op, and Liger's kernel.  Weights are random.  What does not fit into the budget or the memory is
    left out, the least important first; the output says so.

    Hugging Face's class is found by itself for models that archc import knows; for others name its config.

    \b
    Examples:
      archc bench specs/llama3.arch --model llama3_8b
      archc bench specs/smollm2.arch --model smollm2_135m --budget 120 --json smollm2.json --plot smollm2.svg
      archc bench specs/llama3.arch --model llama3_8b --layers 8 --peer compiled
      archc bench my_model.arch --layers 4 --dtype float32 --device cpu
      archc bench my_model.arch --config my_model/config.json
    """
    from archc.benchmarking.bench import read_options
    from archc.benchmarking.command import run

    options = read_options(settings, budget, layers, dtype, device, peers, config)
    run(spec, model, options, json_file, plot)
