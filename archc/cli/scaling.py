"""`archc scale` and `archc fit`: scaling laws, of papers and of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import click

from archc.cli import options


@click.command()
@click.argument("spec", required=False, type=click.Path(path_type=Path))
@options.model
@options.settings
@click.option("--params", metavar="N", type=options.QUANTITY, help="Parameters, such as 8B.")
@click.option("--tokens", metavar="D", type=options.QUANTITY, help="Training tokens, such as 15T.")
@click.option("--compute", metavar="FLOPS", type=options.QUANTITY, help="A budget, serving included: 1e24.")
@click.option("--loss", metavar="NATS", type=float, help="A loss to reach at the least cost.")
@click.option("--serve", metavar="TOKENS", type=options.QUANTITY, help="Tokens that the model will serve.")
@click.option(
    "--serving-price",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="What an operation costs in serving, in operations of training.",
)
@click.option(
    "--fit", "fits", multiple=True, metavar="NAME", help="A law; more than one may be given.  [epoch]"
)
@click.option("--experts", type=float, help="For laws of routed models: experts in a layer.")
@click.option("--granularity", type=float, help="For `krajewski`: how many times finer experts are.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw lines of equal loss.")
def scale(
    spec: Path | None,
    model: str | None,
    settings: tuple[str, ...],
    params: float | None,
    tokens: float | None,
    compute: float | None,
    loss: float | None,
    serve: float | None,
    serving_price: float,
    fits: tuple[str, ...],
    experts: float | None,
    granularity: float | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Tell what scaling laws predict of a loss or of a budget.

    With N, from --params or a spec's model, and D: the loss.  With --compute: the N and D of the least loss,
    and with --serve those for which training and serving together cost the budget.  With --loss: the cheapest
    model that reaches it.

    Fits are epoch, hoffmann-tex, hoffmann-rounded, kaplan, and for routed models krajewski, krajewski-dense,
    clark, ludziejewski; or a file that `archc fit` wrote.  The output says which parameters each means by N.

    \b
    Examples:
      archc scale --params 70B --tokens 1.4T
      archc scale specs/llama3.arch --model llama3_8b --tokens 15T --fit epoch --fit kaplan
      archc scale --compute 5.76e23 --fit epoch --fit hoffmann-tex
      archc scale --loss 2.0 --serve 10T
      archc scale --params 8B --tokens 15T --plot iso_loss.png
    """
    from archc.analysis.allocation import Demand
    from archc.analysis.laws.named import DEFAULT, law_named
    from archc.exploration import scaling
    from archc.exploration.law_files import read_chinchilla

    sizes = sum(given is not None for given in (params, spec))
    aims = sum(given is not None for given in (tokens, compute, loss))
    if aims != 1 or sizes != (tokens is not None) or (spec is None and (model or settings)):
        raise click.UsageError("give --tokens with --params or a SPEC, or --compute, or --loss")
    laws = [
        read_chinchilla(Path(name)) if name.endswith(".json") else law_named(name, experts, granularity)
        for name in fits or (DEFAULT,)
    ]
    demand = Demand(serve or 0.0, serving_price)
    if plot is not None:
        from archc.plotting import check_picture

        check_picture(plot)
    if tokens is not None:
        size = scaling.Size.read(spec, model, settings) if spec else scaling.Size.given(params or 0)
        predictions = scaling.predict(laws, size, tokens)
        found = [each.as_json() for each in predictions]
        if not as_json:
            scaling.print_predictions(predictions, size)
    else:
        plans = scaling.plan(laws, compute, loss, demand)
        found = [each.as_json() for each in plans]
        if not as_json:
            scaling.print_plans(plans, demand)
    if as_json:
        click.echo(json.dumps({"fits": found}, indent=2))
    if plot is not None:
        from archc.exploration.isoloss import draw_iso_loss

        draw_iso_loss(laws[0], [(each["parameters"], each["tokens"]) for each in found[:1]], demand, plot)
        click.echo(f"{plot}: written", err=True)


@click.command()
@click.argument("runs", type=click.Path(path_type=Path))
@click.option(
    "--law",
    type=click.Choice(["chinchilla", "conditional"]),
    default="chinchilla",
    show_default=True,
    help="What to fit.",
)
@click.option(
    "--column", "columns", multiple=True, metavar="NAME=TITLE", help="The title of a column, if it differs."
)
@click.option(
    "--bootstrap",
    type=click.IntRange(20, 100_000),
    default=200,
    show_default=True,
    help="How many resamples of the runs to fit.",
)
@click.option(
    "--level",
    type=click.FloatRange(0.5, 0.99),
    default=0.9,
    show_default=True,
    help="Level of the intervals.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resamples."
)
@click.option("--params", metavar="N", type=options.QUANTITY, help="Predict the loss of N parameters...")
@click.option("--tokens", metavar="D", type=options.QUANTITY, help="...after D tokens.")
@click.option("--extrapolate", is_flag=True, help="Also predict outside the range of the runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the law, as JSON, for later commands.",
)
def fit(
    runs: Path,
    law: str,
    columns: tuple[str, ...],
    bootstrap: int,
    level: float,
    seed: int,
    params: float | None,
    tokens: float | None,
    extrapolate: bool,
    as_json: bool,
    output: Path | None,
) -> None:
    """Fit a scaling law to runs, with intervals.

    It says what the runs do not determine.  RUNS is a CSV file with a line for each model that was trained.
    Chinchilla's law takes the columns parameters, tokens and loss; the conditional law parameters (without
    the vocabulary's tables), tokens, d_model, ratio (of MLP to attention parameters) and loss.

    The law that -o writes is one that `archc scale --fit FILE` and `archc search --law FILE` take.

    \b
    Examples:
      archc fit runs.csv
      archc fit runs.csv --column loss=val_loss --params 7B --tokens 140B --extrapolate
      archc fit shapes.csv --law conditional -o mine.json
    """
    from archc.exploration import fitting
    from archc.files import write_whole

    if (params is None) != (tokens is None) or (params is not None and law != fitting.CHINCHILLA):
        raise click.UsageError("--params and --tokens go together, and with --law chinchilla")
    asked = (params, tokens) if params is not None and tokens is not None else None
    renamed = fitting.parse_columns(columns)
    report = fitting.fit(fitting.Request(runs, law, renamed, bootstrap, level, seed, asked, extrapolate))
    if as_json:
        click.echo(fitting.to_json(report), nl=False)
    else:
        fitting.print_report(report)
    if output is not None:
        write_whole(output, fitting.to_json(report))
        click.echo(f"{output}: written", err=True)
