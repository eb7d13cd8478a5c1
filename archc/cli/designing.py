"""`archc design` and `archc search`: a spec for a size, and better shapes of a model."""

from __future__ import annotations

from pathlib import Path

import click

from archc.cli import options


@click.command()
@click.option("--params", metavar="N", required=True, type=options.QUANTITY, help="Parameters in all: 8B.")
@click.option(
    "--context",
    metavar="TOKENS",
    type=options.TOKENS,
    default="8K",
    show_default=True,
    help="The context to make it for; K and M are powers of 1024 here.",
)
@click.option(
    "--tokens", metavar="D", type=options.QUANTITY, help="Training tokens, for what the spec tells."
)
@click.option("--vocab", metavar="V", type=click.IntRange(1, 1 << 24), help="The tokenizer's vocabulary.")
@click.option("--moe", is_flag=True, help="A mixture of experts; N counts all of them.")
@click.option("--hardware", default="h200", show_default=True, metavar="NAME", help="The device to tell of.")
@click.option("--hardware-file", type=click.Path(path_type=Path), help="Your own devices, in TOML or JSON.")
@click.option("--name", default="designed", show_default=True, help="The model's name.")
@options.spec_output
@options.force
def design(
    params: float,
    context: int,
    tokens: float | None,
    vocab: int | None,
    moe: bool,
    hardware: str,
    hardware_file: Path | None,
    name: str,
    output: Path | None,
    force: bool,
) -> None:
    """Propose a spec for a number of parameters, and say in comments why each size is what it is.

    The model is a decoder of the kind that most are, dense or with experts.  It has the proportions of
    published ones, sizes that matrix products and several devices divide well, and as many parameters as
    asked for.

    \b
    Examples:
      archc design --params 8B
      archc design --params 30B --moe --context 32K
      archc design --params 1.5B --context 32K --vocab 50257 --tokens 1T -o my_model.arch
    """
    from archc import compiler, designer
    from archc.analysis.devices import find_device
    from archc.importer import Imported, write_spec
    from archc.proposal import proposal

    request = designer.Request(
        params, context, find_device(hardware, hardware_file), tokens, vocab, moe, name
    )
    made = designer.design(request)
    text = proposal(made)
    compiler.check(compiler.read_spec_text(text, str(output or "design.arch")))
    if output is None:
        click.echo(text, nl=False)
    else:
        write_spec(Imported(text, made.shape.spec), output, force)
        click.echo(f"{output}: written")


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
@click.option("--hardware", default="h200", show_default=True, metavar="NAME", help="The roofline's device.")
@click.option("--hardware-file", type=click.Path(path_type=Path), help="Your own devices, in TOML or JSON.")
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
def search(
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
    """Find shapes of a model, at its number of parameters, that lose little and answer fast.

    Width, MLP-to-attention ratio and heads vary.  The loss is that of the conditional law (Bian et al. 2025),
    the rate that of a roofline, or from --rates: a CSV file with the columns d, heads, kv_heads, head_dim,
    d_ff and tokens_per_second.  -o writes the front as models that can be built.

    \b
    Examples:
      archc search specs/llama3.arch --model llama3_2_1b --hardware a100
      archc search specs/llama3.arch --model llama3_2_1b --plot front.png -o shapes.arch
      archc search specs/llama3.arch --model llama3_2_1b --rates measured.csv
    """
    from archc import compiler, search_report, searcher
    from archc.analysis.devices import find_device
    from archc.analysis.laws.conditional import conditional_named
    from archc.analysis.serving import Workload
    from archc.files import write_whole
    from archc.importer import Imported, write_spec
    from archc.law_files import read_conditional
    from archc.plotting import check_picture
    from archc.search_space import Base, Grid
    from archc.settings import parse_settings
    from archc.variants import variants_text

    if plot is not None:
        check_picture(plot)
    law = read_conditional(Path(law_name)) if law_name.endswith(".json") else conditional_named(law_name)
    given = parse_settings(settings)
    read = compiler.read_spec_file(spec)
    base = Base(read, compiler.one_program(read, model, given), given)
    load = Workload(batch, prompt, answer, "bfloat16", find_device(hardware, hardware_file))
    if rates is not None:
        found = searcher.search_measured(base, law, search_report.read_rates(rates), load)
    else:
        grid = Grid(params or base.counts(base.shape).non_embedding, width_step=width_step, groups=groups)
        found = searcher.search(base, law, grid, load)
    search_report.print_search(found, base, law, load, rates is not None)
    if csv_path is not None:
        write_whole(csv_path, search_report.as_csv(found))
        click.echo(f"{csv_path}: written")
    if output is not None:
        text = variants_text(base, search_report.variants(found, base), output)
        write_spec(Imported(text, Path(base.arch_file).stem), output, force)
        click.echo(f"{output}: written")
    if plot is not None:
        search_report.draw_search(found, base, load, rates is not None, plot)
        click.echo(f"{plot}: written")
