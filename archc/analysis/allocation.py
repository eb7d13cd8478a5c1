"""Budgets divided between parameters and tokens, for training alone or with the serving that follows.

A token costs 6 N operations to train on and 2 N to serve, attention over the context apart.  So a model that
will serve many tokens should be smaller, and trained on more of them, than what is best where training is all
that is paid for (Sardana et al. 2023, arXiv 2401.00448).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from archc.analysis.laws.chinchilla import FLOPS_PER_PARAMETER as TRAINING
from archc.analysis.laws.law import Law
from archc.errors import ArchcError
from archc.quantities import quantity_text

SERVING = 2  # operations a parameter, for each token served: forward only
_SIZES = (1e4, 1e16)  # between which the best N is looked for
_TOKENS = (1e4, 1e22)
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Demand:
    """What a model will have to serve.

    tokens: over its life, read and written
    price:  of an operation in serving, in operations of training; above 1 where serving uses devices worse
    """

    tokens: float = 0.0
    price: float = 1.0

    def flops(self, parameters: float) -> float:
        """In operations of training."""
        return SERVING * parameters * self.tokens * self.price


@dataclass(frozen=True)
class Allocation:
    """N, D, what they cost in operations, and the loss that they buy."""

    parameters: float
    tokens: float
    training_flops: float
    serving_flops: float
    loss: float

    @property
    def flops(self) -> float:
        return self.training_flops + self.serving_flops


def for_budget(law: Law, flops: float, demand: Demand = Demand()) -> Allocation:
    """The least loss whose training and serving cost no more than a budget.  Raises `ArchcError`."""

    def tokens(size: float) -> float:
        return (flops - demand.flops(size)) / (TRAINING * size)

    def loss(size: float) -> float:
        return law.loss(size, tokens(size)) if tokens(size) >= 1 else math.inf

    if not flops > 0:
        raise ArchcError(f"a budget of {flops:g} FLOPs trains nothing: give a positive one")
    size = _least(loss, *_SIZES)
    if math.isinf(loss(size)) or size < _SIZES[0] * 1.01:
        served = f" and serves {quantity_text(demand.tokens)} tokens" if demand.tokens else ""
        raise ArchcError(
            f"no model of {_SIZES[0]:,.0f} parameters or more trains{served} for {quantity_text(flops)} FLOPs"
        )
    return _allocation(law, size, tokens(size), demand)


def for_loss(law: Law, loss: float, demand: Demand = Demand()) -> Allocation:
    """The cheapest model that reaches a loss, serving included.  Raises `ArchcError` where none does."""

    def cost(size: float) -> float:
        tokens = _tokens_for(law, size, loss)
        return size * (TRAINING * tokens + SERVING * demand.tokens * demand.price)

    size = _least(cost, *_SIZES)
    if math.isinf(cost(size)):
        best = law.loss(_SIZES[1], _TOKENS[1])
        raise ArchcError(
            f"by the law `{law.name}` no model reaches a loss of {loss:g}: {best:.4g} is what it ends at"
        )
    return _allocation(law, size, _tokens_for(law, size, loss), demand)


def _allocation(law: Law, size: float, tokens: float, demand: Demand) -> Allocation:
    return Allocation(size, tokens, TRAINING * size * tokens, demand.flops(size), law.loss(size, tokens))


def _tokens_for(law: Law, size: float, loss: float) -> float:
    """The fewest tokens after which a model has a loss; infinite where it never has."""
    low, high = (math.log(end) for end in _TOKENS)
    if law.loss(size, math.exp(high)) > loss:
        return math.inf
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if law.loss(size, math.exp(middle)) <= loss else (middle, high)
    return math.exp(high)


def _least(value: Callable[[float], float], low: float, high: float) -> float:
    """Where a function of one valley, in the logarithm, is least; it may be infinite at either side."""
    points = [low * (high / low) ** (i / 240) for i in range(241)]
    best = min(range(241), key=lambda i: value(points[i]))
    a, b = math.log(points[max(0, best - 1)]), math.log(points[min(240, best + 1)])
    for _ in range(60):
        left, right = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
        a, b = (a, right) if value(math.exp(left)) <= value(math.exp(right)) else (left, b)
    return math.exp((a + b) / 2)
