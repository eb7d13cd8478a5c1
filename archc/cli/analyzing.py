"""`archc analyze` and `archc diff`: what a model costs, and how two differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from archc.cli import options

_REQUEST = (
    options.hardware,
    options.hardware_file,
    click.option(
        "--batch", type=click.IntRange(1, 1 << 40), default=1, show_default=True, help="Sequences at a time."
    ),
    click.option(
        "--context",
        type=options.TOKENS,
        help="Tokens of a sequence; K and M are powers of 1024 here.  [4096, or what the model takes]",
    ),
    options.dtype,
    click.option("--json", "as_json", is_flag=True, help="Print JSON; see docs/analyze.md."),
)


def _request(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what a model is analysed for."""
    for option in reversed(_REQUEST):
        command = option(command)
    return command


@click.command()
@click.argument("specs", nargs=-1, required=True, metavar="SPEC[:MODEL]...")
@options.model
@options.settings
@_request
@click.option(
    "--get",
    "keys",
    multiple=True,
    metavar="KEY",
    help="Print only this of the JSON, such as parameters.total.",
)
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Draw the roofline of one model, or the caches of several.",
)
def analyze(
    specs: tuple[str, ...],
    model: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    keys: tuple[str, ...],
    plot: Path | None,
    **given: Any,
) -> None:
    """Count parameters, FLOPs, memory and cache, and bound the speed.

    All numbers come from the graph that is also compiled.  The speed is that of a device: h200, h100, a100,
    mi300x, rtx4090, or cpu for this machine.

    \b
    Examples:
      archc analyze specs/llama3.arch --model llama3_8b
      archc analyze specs/llama3.arch:llama3_8b --hardware h100 --batch 64 --context 8K
      archc analyze specs/qwen3.arch:qwen3_8b --set layers=20 --json
      archc analyze specs/qwen3.arch --get parameters.total --get kv_cache.bytes_per_token
      archc analyze specs/qwen3.arch:qwen3_8b --plot roofline.svg
      archc analyze specs/llama2.arch specs/llama3.arch --plot caches.png
    """
    from archc import analyzer

    if plot is not None:
        from archc.plotting import check_picture

        check_picture(plot)
    if model is not None:
        if len(specs) > 1:
            raise click.UsageError("--model goes with one SPEC; of several write SPEC:MODEL each")
        specs = (f"{specs[0]}:{model}",)
    found = analyzer.analyses(specs, settings, analyzer.Request(**given))
    kept = []
    for each in found:
        kept.append(each)
        for line in analyzer.value_lines(each.analysis, keys):
            click.echo(line)
        if not (as_json or keys):
            analyzer.print_analysis(each.analysis)
    if as_json:
        click.echo(analyzer.as_json(each.analysis for each in kept))
    if plot is not None:
        from archc.costpictures import draw_caches, draw_roofline

        if len(kept) == 1:
            draw_roofline(kept[0].analysis, plot)
        else:
            draw_caches(kept, plot)
        click.echo(f"{plot}: written", err=True)


@click.command()
@click.argument("a", metavar="SPEC[:MODEL]")
@click.argument("b", metavar="SPEC[:MODEL]")
@options.settings
@_request
@click.option(
    "--tokens", metavar="D", type=options.QUANTITY, default="1T", show_default=True, help="For the loss."
)
@click.option("--fit", default="epoch", show_default=True, metavar="NAME", help="The law of the loss.")
def diff(
    a: str, b: str, settings: tuple[str, ...], as_json: bool, tokens: float, fit: str, **given: Any
) -> None:
    """Compare two models: dataflow, size, cost, loss and speed.

    The loss is what a scaling law predicts, the speed what a device allows.  Settings hold for both.

    \b
    Examples:
      archc diff specs/llama2.arch:llama2_7b specs/llama3.arch:llama3_8b
      archc diff specs/qwen3.arch:qwen3_8b specs/olmo2.arch:olmo2_7b --hardware a100 --batch 32 --json
    """
    from archc import analyzer, comparison
    from archc.analysis.laws.named import law_named

    request, law = analyzer.Request(**given), law_named(fit)
    sides = [analyzer.the_one(subject, settings, request) for subject in (a, b)]
    compared = comparison.compare(sides[0], sides[1], law, tokens)
    if as_json:
        click.echo(json.dumps(compared.as_json(), indent=2))
    else:
        comparison.print_comparison(compared, sides[0].analysis.setting.text)
