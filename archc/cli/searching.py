"""`archc search`: better shapes of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from archc.cli import options
from archc.errors import ArchcError

if TYPE_CHECKING:
    from archc.analysis.serving import Workload
    from archc.exploration.granularity import Mixture
    from archc.exploration.search_space import Base
    from archc.exploration.variants import Original, Variant

_OF_SHAPES = ("params", "law_name", "width_step", "groups", "rates")  # options that granularities lack


@dataclass(frozen=True)
class _Outcome:
    """What a search found, printed already."""

    original: Original
    csv: str
    variants: Sequence[Variant]
    draw: Callable[[Path], None]


@click.command()
@options.spec
@options.model
@options.settings
@click.option(
    "--params", metavar="N", type=options.QUANTITY, help="Parameters without tables.  [the model's]"
)
@click.option(
    "--law",
    "law_name",
    default="bian-small",
    show_default=True,
    metavar="NAME",
    help="The fit; or a file of `archc fit`.",
)
@click.option("--width-step", type=click.IntRange(min=1), default=256, show_default=True, help="Steps of d.")
@click.option(
    "--groups", type=click.IntRange(min=1), default=9, show_default=True, help="Most heads to a KV head."
)
@options.hardware
@options.hardware_file
@click.option(
    "--batch", type=click.IntRange(1, 1 << 20), default=128, show_default=True, help="Requests at a time."
)
@click.option("--prompt", type=options.TOKENS, default="4K", show_default=True, help="Tokens of a prompt.")
@click.option("--answer", type=options.TOKENS, default="1K", show_default=True, help="Tokens of an answer.")
@click.option("--rates", metavar="CSV", type=click.Path(path_type=Path), help="Shapes with measured rates.")
@click.option("--csv", "csv_path", metavar="FILE", type=click.Path(path_type=Path), help="Write all points.")
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw the front.")
@options.spec_output
@options.force
@click.pass_context
def search(
    context: click.Context,
    spec: Path,
    model: str | None,
    settings: tuple[str, ...],
    params: float | None,
    law_name: str,
    width_step: int,
    groups: int,
    hardware: str,
    hardware_file: Path | None,
    batch: int,
    prompt: int,
    answer: int,
    rates: Path | None,
    csv_path: Path | None,
    plot: Path | None,
    output: Path | None,
    force: bool,
) -> None:
    """Find models of one's size that lose little and answer fast.

    Of a dense model, width, MLP-to-attention ratio and heads vary.  The loss is that of the conditional law
    (Bian et al. 2025), the rate that of a roofline, or from --rates: a CSV file with the columns d, heads,
    kv_heads, head_dim, d_ff and tokens_per_second.

    Of a model with experts, the granularity varies: f times as many experts, f times as narrow, of which a
    token takes f times as many.  The loss is that of Krajewski et al. (2024).

    -o writes the front as models that can be built.

    \b
    Examples:
      archc search specs/llama3.arch --model llama3_2_1b --hardware a100
      archc search specs/llama3.arch --model llama3_2_1b --plot front.png -o shapes.arch
      archc search specs/llama3.arch --model llama3_2_1b --rates measured.csv
      archc search specs/qwen3_moe.arch --model qwen3_30b_a3b --plot granularity.png
    """
    from archc import compiler
    from archc.analysis.devices import find_device
    from archc.analysis.serving import Workload
    from archc.exploration.granularity import Mixture, has_experts
    from archc.exploration.search_space import Base
    from archc.exploration.variants import variants_text
    from archc.files import write_whole
    from archc.importer import Imported, write_spec
    from archc.plotting import check_picture
    from archc.settings import parse_settings

    if plot is not None:
        check_picture(plot)
    given = parse_settings(settings)
    read = compiler.read_spec_file(spec)
    program = compiler.one_program(read, model, given)
    load = Workload(batch, prompt, answer, "bfloat16", find_device(hardware, hardware_file))
    if has_experts(program):
        _check_options(context, program.name)
        found = _granularities(Mixture(read, program, given), load)
    else:
        found = _shapes(Base(read, program, given), load, params, law_name, width_step, groups, rates)
    if csv_path is not None:
        write_whole(csv_path, found.csv)
        click.echo(f"{csv_path}: written")
    if output is not None:
        text = variants_text(found.original, found.variants, output)
        write_spec(Imported(text, found.original.arch_file.stem), output, force)
        click.echo(f"{output}: written")
    if plot is not None:
        found.draw(plot)
        click.echo(f"{plot}: written")


def _check_options(context: click.Context, name: str) -> None:
    """Raise `ArchcError` for an option that a search of granularities has no use for."""
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if option.name in _OF_SHAPES and given:
            raise ArchcError(
                f"{name} has experts, whose granularity is what varies: {option.opts[0]} is for dense models"
            )


def _granularities(mixture: Mixture, load: Workload) -> _Outcome:
    from archc.exploration import granularity_report as report
    from archc.exploration.granularity import search_granularity

    found = search_granularity(mixture, load)
    report.print_granularities(found, mixture, load)
    return _Outcome(
        mixture,
        report.granularities_csv(found, mixture),
        report.granularity_variants(found, mixture),
        lambda path: report.draw_granularities(found, mixture, load, path),
    )


def _shapes(
    base: Base,
    load: Workload,
    params: float | None,
    law_name: str,
    width_step: int,
    groups: int,
    rates: Path | None,
) -> _Outcome:
    from archc.analysis.laws.conditional import conditional_named
    from archc.exploration import search_report, searcher
    from archc.exploration.law_files import read_conditional
    from archc.exploration.search_space import Grid

    law = read_conditional(Path(law_name)) if law_name.endswith(".json") else conditional_named(law_name)
    if rates is not None:
        found = searcher.search_measured(base, law, search_report.read_rates(rates), load)
    else:
        grid = Grid(params or base.counts(base.shape).non_embedding, width_step=width_step, groups=groups)
        found = searcher.search(base, law, grid, load)
    search_report.print_search(found, base, law, load, rates is not None)
    return _Outcome(
        base,
        search_report.as_csv(found),
        search_report.variants(found, base),
        lambda path: search_report.draw_search(found, base, load, rates is not None, path),
    )
