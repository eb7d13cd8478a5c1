"""`archc scale`: what the scaling laws say of a size and an amount of data, or of a budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from archc import compiler
from archc.analysis.allocation import Allocation, Demand, for_budget, for_loss
from archc.analysis.laws.chinchilla import FLOPS_PER_PARAMETER, Chinchilla
from archc.analysis.laws.law import Count, Law
from archc.analysis.parameters import count_parameters
from archc.console import output
from archc.errors import ArchcError
from archc.quantities import quantity_text
from archc.settings import parse_settings


@dataclass(frozen=True)
class Size:
    """A model's N: one number for whatever a law counts, or what a graph holds of each."""

    name: str
    counts: dict[Count, float]

    def of(self, law: Law) -> float:
        """The N that a law means; raises `ArchcError` where a graph has no such number."""
        if law.counts not in self.counts:
            raise ArchcError(
                f"the law `{law.name}` counts {law.counts}, which a spec does not tell: give --params"
            )
        return self.counts[law.counts]

    @staticmethod
    def given(parameters: float) -> Size:
        return Size(quantity_text(parameters), dict.fromkeys(Count, parameters))

    @staticmethod
    def read(path: Path, model: str | None, settings: tuple[str, ...]) -> Size:
        """What a spec's model holds; raises `ArchcError`."""
        program = compiler.one_program(compiler.read_spec_file(path), model, parse_settings(settings))
        counts = count_parameters(program.graph)
        found = {
            Count.TOTAL: counts.total,
            Count.NON_EMBEDDING: counts.non_embedding,
            Count.ACTIVE: counts.active,
        }
        return Size(program.name, {count: float(number) for count, number in found.items()})


@dataclass(frozen=True)
class Prediction:
    """The loss of N and D by one law, and the best loss that the same training compute buys."""

    law: Law
    parameters: float
    tokens: float
    loss: float
    error: float | None
    best: Allocation

    @property
    def flops(self) -> float:
        return FLOPS_PER_PARAMETER * self.parameters * self.tokens

    def as_json(self) -> dict[str, Any]:
        return {
            **_law_json(self.law),
            "parameters": self.parameters,
            "tokens": self.tokens,
            "training_flops": self.flops,
            "loss": self.loss,
            "loss_standard_error": self.error,
            "compute_optimal": _allocation_json(self.best),
            "warnings": list(self.law.warnings(self.parameters, self.tokens)),
        }


@dataclass(frozen=True)
class Plan:
    """How to spend a budget, or to reach a loss, by one law.

    factor:        the chosen N is known to within this factor, up or down (one standard error)
    without_demand: the model of the same loss that training alone would choose, with what serving it costs
    """

    law: Law
    chosen: Allocation
    factor: float | None
    without_demand: Allocation | None

    def as_json(self) -> dict[str, Any]:
        other = self.without_demand
        return {
            **_law_json(self.law),
            **_allocation_json(self.chosen),
            "parameters_standard_error_factor": self.factor,
            "compute_optimal_of_the_same_loss": _allocation_json(other) if other else None,
            "warnings": list(self.law.warnings(self.chosen.parameters, self.chosen.tokens)),
        }


def _law_json(law: Law) -> dict[str, Any]:
    return {"fit": law.name, "source": law.source, "parameters_mean": str(law.counts), "caveat": law.caveat}


def _allocation_json(each: Allocation) -> dict[str, Any]:
    return {
        "parameters": each.parameters,
        "tokens": each.tokens,
        "tokens_per_parameter": each.tokens / each.parameters,
        "loss": each.loss,
        "training_flops": each.training_flops,
        "serving_flops": each.serving_flops,
    }


def predict(laws: Sequence[Law], size: Size, tokens: float) -> list[Prediction]:
    """The loss by each law; raises `ArchcError`."""
    found = []
    for law in laws:
        n = size.of(law)
        best = for_budget(law, FLOPS_PER_PARAMETER * n * tokens)
        found.append(Prediction(law, n, tokens, law.loss(n, tokens), _loss_error(law, n, tokens), best))
    return found


def _loss_error(law: Law, parameters: float, tokens: float) -> float | None:
    return law.error_of(lambda each: each.loss(parameters, tokens)) if isinstance(law, Chinchilla) else None


def plan(laws: Sequence[Law], flops: float | None, loss: float | None, demand: Demand) -> list[Plan]:
    """The best spending of a budget in FLOPs, or the cheapest way to a loss; raises `ArchcError`."""

    def choose(law: Law) -> Allocation:
        if flops is not None:
            return for_budget(law, flops, demand)
        assert loss is not None
        return for_loss(law, loss, demand)

    found = []
    for law in laws:
        chosen, other, error = choose(law), None, None
        if isinstance(law, Chinchilla) and flops is not None:
            error = law.error_of(lambda each: math.log(choose(each).parameters))
        if demand.tokens:
            plain = for_loss(law, chosen.loss)
            serving = demand.flops(plain.parameters)
            other = Allocation(plain.parameters, plain.tokens, plain.training_flops, serving, plain.loss)
        found.append(Plan(law, chosen, None if error is None else math.exp(error), other))
    return found


def print_predictions(found: Sequence[Prediction], size: Size) -> None:
    """Print the loss that each law predicts of a size."""
    console = output()
    console.print(f"{size.name}, trained on {quantity_text(found[0].tokens)} tokens", style="bold")
    table = Table("fit", "loss", "N", "D / N", "FLOPs", "best loss for them")
    for each in found:
        best = f"{each.best.loss:.4f} at {_pair(each.best)}"
        ratio = quantity_text(each.tokens / each.parameters)
        table.add_row(
            each.law.name,
            _with_error(each.loss, each.error),
            quantity_text(each.parameters),
            ratio,
            quantity_text(each.flops),
            best,
        )
    console.print(table)
    _print_notes([(each.law, each.parameters, each.tokens) for each in found], console)


def print_plans(found: Sequence[Plan], demand: Demand) -> None:
    """Print how each law divides a budget, or reaches a loss."""
    console = output()
    if demand.tokens:
        price = f", an operation at {demand.price:g} times training's" if demand.price != 1 else ""
        console.print(f"to serve {quantity_text(demand.tokens)} tokens{price}", style="bold")
    table = Table("fit", "N", "D", "D / N", "loss", "training", "serving", "FLOPs")
    for each in found:
        table.add_row(*_plan_row(each.law.name, each.chosen))
        if each.without_demand:
            table.add_row(*_plan_row("- training alone", each.without_demand))
    console.print(table)
    for each in found:
        if each.without_demand:
            console.print(_saving(each.chosen, each.without_demand, each.law.name))
        if each.factor:
            console.print(f"{each.law.name}: N and D are known to within {each.factor:.2g} times, either way")
    _print_notes([(each.law, each.chosen.parameters, each.chosen.tokens) for each in found], console)


def _plan_row(name: str, each: Allocation) -> Iterator[str]:
    yield name
    yield quantity_text(each.parameters)
    yield quantity_text(each.tokens)
    yield quantity_text(each.tokens / each.parameters)
    yield f"{each.loss:.4f}"
    yield quantity_text(each.training_flops)
    yield quantity_text(each.serving_flops)
    yield quantity_text(each.flops)


def _saving(chosen: Allocation, other: Allocation, name: str) -> str:
    smaller, share = quantity_text(other.parameters / chosen.parameters), 1 - chosen.flops / other.flops
    return (
        f"{name}: {smaller} times smaller than what training alone would choose for this loss, and "
        f"{share:.1%} cheaper with serving"
    )


def _print_notes(used: Sequence[tuple[Law, float, float]], console: Console) -> None:
    for law, parameters, tokens in used:
        console.print(f"{law.name}: N is {law.counts}.  {law.source}")
        if law.caveat:
            console.print(f"  {law.caveat}")
        for warning in law.warnings(parameters, tokens):
            console.print(f"  warning: {warning}", style="yellow")
    if len(used) > 1:
        console.print(
            "Losses of different papers are of different data and tokenizers: compare them within a fit."
        )


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4f}" + (f" ± {error:.3f}" if error is not None else "")


def _pair(each: Allocation) -> str:
    return f"{quantity_text(each.parameters)}, {quantity_text(each.tokens)}"
