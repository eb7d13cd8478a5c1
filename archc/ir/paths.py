"""Parameter paths: the names of tensors in a checkpoint, with loop variables left open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Index:
    """A path segment that follows a loop variable: `variable * scale + offset`, after a `prefix`."""

    variable: str
    scale: int = 1
    offset: int = 0
    prefix: str = ""

    def __str__(self) -> str:
        scaled = self.variable if self.scale == 1 else f"{self.scale} * {self.variable}"
        return f"{self.prefix}{{{scaled} + {self.offset}}}" if self.offset else f"{self.prefix}{{{scaled}}}"

    def text(self, indices: Mapping[str, int]) -> str:
        """The segment at given values of the loop variables."""
        return f"{self.prefix}{self.at(indices)}"

    def at(self, indices: Mapping[str, int]) -> int:
        return indices[self.variable] * self.scale + self.offset


Path: TypeAlias = tuple[str | Index, ...]


def path_text(path: Path) -> str:
    """`model.layers.{i}.mlp`, for people."""
    return ".".join(map(str, path))


def concrete(path: Path, indices: Mapping[str, int]) -> str:
    """The name at given values of the loop variables."""
    return ".".join(_segments(path, indices))


def _segments(path: Path, indices: Mapping[str, int]) -> list[str]:
    return [segment.text(indices) if isinstance(segment, Index) else segment for segment in path]


def pattern(path: Path, indices: Mapping[str, int], variable: str) -> str:
    """The name at given values of the loop variables, with `*` for the number that follows one of them."""
    return ".".join(
        (
            f"{segment.prefix}*"
            if isinstance(segment, Index) and segment.variable == variable and segment.scale
            else text
        )
        for segment, text in zip(path, _segments(path, indices), strict=True)
    )


def concrete_names(path: Path, indices: Mapping[str, int], variable: str, count: int) -> list[str]:
    """The names at so many values of one more variable: a large model has tens of thousands of experts."""
    places = [n for n, s in enumerate(path) if isinstance(s, Index) and s.variable == variable]
    if len(places) != 1:
        return [concrete(path, {**indices, variable: value}) for value in range(count)]
    (place,) = places
    index = path[place]
    assert isinstance(index, Index)
    before = "".join(f"{part}." for part in _segments(path[:place], indices)) + index.prefix
    after = "".join(f".{part}" for part in _segments(path[place + 1 :], indices))
    return [f"{before}{value * index.scale + index.offset}{after}" for value in range(count)]


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of the checkpoint that makes up a weight or some rows of it.

    `shape` is as stored; `transposed` says that the weight holds it as [columns, rows].  Where the weights of
    several experts lie in one tensor [planes, *shape], this is the plane that `plane` says.

    joined: the dim of `shape` along which planes follow one another, where they do: of a matrix 0 gives
            [planes * rows, columns], 1 gives [rows, planes * columns]
    heads: where its rows lie head by head and the weight holds them part by part, how many heads there are;
           `parts` are the rows of each part of a head
    """

    path: Path
    shape: tuple[int, ...]
    transposed: bool = False
    planes: int = 0
    plane: Index | None = None
    joined: int | None = None
    heads: int = 0
    parts: tuple[int, ...] = ()

    @property
    def file_shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor in the checkpoint."""
        if self.joined is not None:
            sizes = enumerate(self.shape)
            return tuple(self.planes * size if dim == self.joined else size for dim, size in sizes)
        return (self.planes, *self.shape) if self.planes else self.shape

    @property
    def held_shape(self) -> tuple[int, ...]:
        """The shape in the weight."""
        return self.shape[::-1] if self.transposed else self.shape


@dataclass(frozen=True, slots=True)
class Shared:
    """The tensors of experts that every token goes through, after those that tokens choose.

    first:   the number of the first of them, which the `variable` that counts experts has for it
    count:   how many there are; of several, each has a plane of the same tensors
    sources: the tensors that make up a weight
    """

    variable: str
    first: int
    count: int
    sources: tuple[Stored, ...]

    def of(self, indices: Mapping[str, int]) -> tuple[Stored, ...] | None:
        """The tensors at given values of the loop variables; None for an expert that tokens choose."""
        return self.sources if indices[self.variable] >= self.first else None
