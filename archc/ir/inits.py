"""How weights start out, before training or a checkpoint changes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from archc.ir.records import Record, record
from archc.ir.types import TypeMistake

_MOST = 80.0  # e^80 is still a float32


class Init(Record):
    """How a parameter starts out."""

    def bounds(self) -> tuple[float, float]:
        """The least and the largest value; raises `TypeMistake` where there is no such start."""
        return -math.inf, math.inf


@record
@dataclass(frozen=True)
class Normal(Init):
    """Normal with mean 0."""

    std: float = 0.02

    def bounds(self) -> tuple[float, float]:
        """No bounds; raises `TypeMistake` if the standard deviation is below 0."""
        if self.std < 0:
            raise TypeMistake(f"{self} has a standard deviation below 0")
        return super().bounds()


@record
@dataclass(frozen=True)
class Fill(Init):
    """A constant."""

    value: float

    def bounds(self) -> tuple[float, float]:
        """The constant, twice."""
        return self.value, self.value


@record
@dataclass(frozen=True)
class Uniform(Init):
    """Uniform from `low` to `high`."""

    low: float
    high: float

    def bounds(self) -> tuple[float, float]:
        """Both ends; raises `TypeMistake` if they have changed places."""
        if self.low > self.high:
            raise TypeMistake(f"{self} has its low end above its high end")
        return self.low, self.high


@record
@dataclass(frozen=True)
class LogUniform(Uniform):
    """What has a uniform logarithm, from `low` to `high`."""

    def bounds(self) -> tuple[float, float]:
        """Both ends; raises `TypeMistake` unless they are above 0."""
        return _positive(self, *super().bounds())


@record
@dataclass(frozen=True)
class Spaced(Init):
    """From `first` to `last` in equal steps along the last dim."""

    first: float
    last: float

    def bounds(self) -> tuple[float, float]:
        """Both ends, in order."""
        return min(self.first, self.last), max(self.first, self.last)


@record
@dataclass(frozen=True)
class Logarithm(Init):
    """What has an exponential that starts as `of`."""

    of: Init

    def bounds(self) -> tuple[float, float]:
        """Those of the logarithm; raises `TypeMistake` where there is none."""
        low, high = _positive(self, *self.of.bounds())
        return math.log(low), math.log(high)


@record
@dataclass(frozen=True)
class InverseSoftplus(Init):
    """What has a softplus that starts as `of`, which is at most 80."""

    of: Init

    def bounds(self) -> tuple[float, float]:
        """Those of the inverse; raises `TypeMistake` where there is none."""
        low, high = _positive(self, *self.of.bounds())
        if high > _MOST:
            raise TypeMistake(f"{self} starts as values of up to {high:g}, where {_MOST:g} is the most")
        return math.log(math.expm1(low)), math.log(math.expm1(high))


def _positive(init: Init, low: float, high: float) -> tuple[float, float]:
    if low <= 0.0:
        raise TypeMistake(f"{init} needs numbers above 0 only")
    return low, high


ZEROS = Fill(0.0)
