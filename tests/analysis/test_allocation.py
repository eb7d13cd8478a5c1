"""Budgets are divided where the loss is least: held to closed forms, to grids, and to the papers' claims."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest

from archc.analysis.allocation import Demand, for_budget, for_loss
from archc.analysis.laws.chinchilla import EPOCH, HOFFMANN_TEX, Chinchilla
from archc.analysis.laws.kaplan import KAPLAN
from archc.analysis.laws.law import Law
from archc.analysis.laws.routed import krajewski
from archc.errors import ArchcError


@pytest.mark.parametrize("law", [EPOCH, HOFFMANN_TEX], ids=lambda law: law.name)
@pytest.mark.parametrize("flops", [1e18, 5.76e23, 1e27])
def test_training_alone_is_the_closed_form(law: Chinchilla, flops: float) -> None:
    found, (size, tokens) = for_budget(law, flops), law.optimum(flops)
    assert found.parameters == pytest.approx(size, rel=1e-5)
    assert found.tokens == pytest.approx(tokens, rel=1e-5)
    assert found.training_flops == pytest.approx(flops, rel=1e-12)
    assert found.serving_flops == 0


def test_kaplan_asks_for_larger_models() -> None:
    """By the joint fit N grows as C^(0.103 / (0.076 + 0.103))."""
    small, large = for_budget(KAPLAN, 1e20), for_budget(KAPLAN, 1e22)
    assert math.log(large.parameters / small.parameters, 100) == pytest.approx(0.575, abs=2e-3)
    assert large.parameters > for_budget(EPOCH, 1e22).parameters


@pytest.mark.parametrize("law", [EPOCH, KAPLAN, krajewski(16)], ids=lambda law: law.name)
@pytest.mark.parametrize("demand", [Demand(), Demand(1e12), Demand(1e13, price=3)])
def test_no_other_division_of_a_budget_is_better(law: Law, demand: Demand) -> None:
    flops = 1e24
    best = for_budget(law, flops, demand)
    assert best.flops == pytest.approx(flops, rel=1e-9)
    for step in range(-60, 61):
        size = best.parameters * 1.1**step
        tokens = (flops - demand.flops(size)) / (6 * size)
        if tokens > 0:
            assert law.loss(size, tokens) >= best.loss - 1e-12


@pytest.mark.parametrize("demand", [Demand(), Demand(2e12), Demand(1e14)])
def test_a_loss_costs_what_its_budget_buys(demand: Demand) -> None:
    """The cheapest way to a loss and the best loss of that cost are one point."""
    cheapest = for_loss(EPOCH, 2.05, demand)
    assert cheapest.loss == pytest.approx(2.05, abs=1e-9)
    best = for_budget(EPOCH, cheapest.flops, demand)
    assert best.loss == pytest.approx(2.05, abs=1e-6)
    assert best.parameters == pytest.approx(cheapest.parameters, rel=1e-3)


def test_serving_makes_models_smaller_and_trains_them_longer() -> None:
    found = [for_loss(EPOCH, 2.0, Demand(tokens)) for tokens in (0, 1e11, 1e12, 1e13, 1e14)]
    sizes, tokens = [f.parameters for f in found], [f.tokens for f in found]
    assert sizes == sorted(sizes, reverse=True)
    assert tokens == sorted(tokens)
    assert tokens[-1] / sizes[-1] > 10 * tokens[0] / sizes[0]


@pytest.mark.parametrize("flops", [0.0, -1.0, math.nan, 10.0])
def test_budgets_that_train_nothing(flops: float) -> None:
    with pytest.raises(ArchcError, match=r"trains nothing|parameters or more trains"):
        for_budget(EPOCH, flops)


def test_losses_that_nothing_reaches() -> None:
    with pytest.raises(ArchcError, match=r"no model reaches a loss of 1\.8"):
        for_loss(EPOCH, 1.8)


def _drawn(law: Chinchilla, source: random.Random) -> Chinchilla:
    """The law with coefficients drawn from its errors, which are independent here."""
    assert law.covariance is not None
    deviations = [math.sqrt(row[i]) for i, row in enumerate(law.covariance)]
    e, a, b, alpha, beta = (source.gauss(0, deviation) for deviation in deviations)
    return replace(
        law,
        E=law.E + e,
        A=law.A * math.exp(a),
        B=law.B * math.exp(b),
        alpha=law.alpha + alpha,
        beta=law.beta + beta,
    )


def _size(law: Chinchilla) -> float:
    return math.log(law.optimum(5.76e23)[0])


def _served_size(law: Chinchilla) -> float:
    return math.log(for_budget(law, 1e24, Demand(1e13)).parameters)


@pytest.mark.parametrize("value", [lambda law: law.loss(70e9, 1.4e12), _size, _served_size])
def test_errors_are_those_of_drawn_coefficients(value: Callable[[Chinchilla], float]) -> None:
    """Held to draws of a twentieth of the errors, where first order is all there is."""
    assert EPOCH.covariance is not None
    covariance = tuple(tuple(v / 400 for v in row) for row in EPOCH.covariance)
    law, source = replace(EPOCH, covariance=covariance), random.Random(0)
    drawn = [value(_drawn(law, source)) for _ in range(1000)]
    assert law.error_of(value) == pytest.approx(statistics.stdev(drawn), rel=0.08)


def test_correlated_errors_cancel() -> None:
    """A and alpha that rise together, so that A / N^alpha stays, leave the loss at that N as it was."""
    centre = math.log(1e9)
    slope = (0.0, centre, 0.0, 1.0, 0.0)
    covariance = tuple(tuple(a * b * 1e-4 for b in slope) for a in slope)
    law = replace(EPOCH, covariance=covariance)
    at_centre = law.error_of(lambda each: each.loss(1e9, 2e10))
    away = law.error_of(lambda each: each.loss(1e11, 2e10))
    assert at_centre is not None
    assert away is not None
    assert at_centre < away / 1000


def test_a_fit_without_errors_has_none_to_pass_on() -> None:
    assert HOFFMANN_TEX.error_of(_size) is None
