"""How rotary frequencies are stretched for a longer context than a model was first trained for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from archc.ir.attributes import Width
from archc.ir.records import Record, record


class Scaling(Record):
    """How rotary frequencies are stretched for a longer context.

    by_length: whether they depend on how long a sequence has become.  Keys in a cache keep the rotation that
               they got then, while the same tokens read at once are rotated alike.
    """

    by_length: ClassVar[bool] = False

    @property
    def magnitude(self) -> float:
        """What cos and sin are multiplied by."""
        return 1.0


@record
@dataclass(frozen=True)
class LinearScaling(Scaling):
    """Every frequency divided by `factor`."""

    factor: float


@record
@dataclass(frozen=True)
class Dynamic(Scaling):
    """Dynamic NTK: past the `original` context a larger theta, so that the lowest frequency is divided by
    factor * length / original - (factor - 1).
    """

    by_length: ClassVar[bool] = True

    factor: float
    original: Width


@record
@dataclass(frozen=True)
class Llama3(Scaling):
    """Llama 3.1: high frequencies kept, low ones divided by `factor`, a ramp between.

    `low` and `high` count turns within the `original` context: fewer than `low` is a low frequency.
    """

    factor: float
    low: float
    high: float
    original: Width


@record
@dataclass(frozen=True)
class Yarn(Scaling):
    """YaRN (Peng et al. 2023): as llama3, with a ramp over pairs from `fast` turns to `slow` turns.

    `truncate` lets the ramp begin and end at whole pairs.  cos and sin are multiplied by `attention_factor`;
    where that is none, by g(mscale) / g(mscale_all_dim), or g(1) if those are not given either, with
    g(m) = 0.1 m log(factor) + 1.
    """

    factor: float
    original: Width
    fast: float = 32.0
    slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    @property
    def magnitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._growth(self.mscale) / self._growth(self.mscale_all_dim)
        return self._growth(1.0)

    def _growth(self, scale: float) -> float:
        return 0.1 * scale * math.log(max(self.factor, 1.0)) + 1.0

    def ramp(self, theta: float, width: int) -> tuple[float, float]:
        """The pairs, of width / 2, where frequencies begin to be divided and where all of it is."""
        first, last = (
            width * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))
            for turns in (self.fast, self.slow)
        )
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0.0), min(last, width - 1.0)
        return first, last if last != first else last + 0.001


@record
@dataclass(frozen=True)
class Longrope(Scaling):
    """LongRoPE (Ding et al. 2024): each frequency divided by a factor of its own, one of `long` in sequences
    of more than `original` tokens and one of `short` in others.

    cos and sin are multiplied by `attention_factor`, or else by sqrt(1 + log(factor) / log(original)).
    """

    by_length: ClassVar[bool] = True

    short: tuple[float, ...]
    long: tuple[float, ...]
    original: Width
    factor: float = 1.0
    attention_factor: float | None = None

    @property
    def magnitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        return math.sqrt(1 + math.log(max(self.factor, 1.0)) / math.log(max(self.original, 2)))
