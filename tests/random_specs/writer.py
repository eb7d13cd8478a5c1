"""A spec that is written statement by statement, at random, and the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

VOCABULARY = 40


class Writer:
    """Lines of a `forward` and of the blocks that it calls, with names that no other statement has.

    `noted` are the numbers of experts whose loads and scores some layer has noted.
    `sight` is the name of the last position that each token sees, where that is not its own.
    `about` is the name of what the caller says of each pair of tokens, where it says something.
    `place` is the name of where it says that each token is, apart from its position.
    """

    def __init__(self, seed: int):
        self.noted: set[int] = set()
        self.sight: str | None = None
        self.about: str | None = None
        self.place: str | None = None
        self._random = random.Random(seed)
        self._lines: list[str] = []
        self._blocks: list[str] = []
        self._definitions: list[str] = []
        self._depth = 1
        self._named = 0

    def choose(self, *options: T) -> T:
        return self._random.choice(options)

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def new(self, word: str) -> str:
        """A name, of a value or of a path, that is not taken."""
        self._named += 1
        return f"{word}_{self._named}"

    def write(self, statement: str) -> None:
        self._lines.append("  " * self._depth + statement)

    def let(self, value: str, word: str = "h") -> str:
        """Give a value a name; the name."""
        name = self.new(word)
        self.write(f"{name} = {value}")
        return name

    def linear(self, x: str, width: int | str, word: str = "proj", bias: bool | None = None) -> str:
        """A linear map with a weight of its own, with or without a bias, in either layout."""
        has_bias = self.chance(0.3) if bias is None else bias
        layout = ", layout = in_out" if self.chance(0.1) else ""
        return f"linear({x}, {width}{', bias = true' if has_bias else ''}{layout}) as {self.new(word)}"

    def content(self, x: str) -> str:
        """x [B, T, d] of an even d or, now and then, what its positions alone say."""
        return self.let(f"sinusoid({x}, positions({x}))", "places") if self.chance(0.04) else x

    def parameter(self, shape: str, near: float, word: str) -> str:
        return f"parameter([{shape}], init = fill({near})) as {self.new(word)}"

    def define(self, *lines: str) -> None:
        """What stands before the arch."""
        self._definitions += lines

    @contextmanager
    def inside(self, header: str) -> Iterator[None]:
        """What is written meanwhile stands in the braces of a header."""
        self.write(header + " {")
        self._depth += 1
        yield
        self._depth -= 1
        self.write("}")

    @contextmanager
    def block(self, word: str, parameters: str) -> Iterator[str]:
        """What is written meanwhile is the body of a block, whose name is given."""
        name = self.new(word)
        outer, depth, told = self._lines, self._depth, (self.sight, self.about, self.place)
        self._lines, self._depth, self.sight, self.about, self.place = [], 1, None, None, None
        with self.inside(f"block {name}({parameters})"):
            yield name
        self._blocks += self._lines
        self._lines, self._depth = outer, depth
        self.sight, self.about, self.place = told

    def text(self, model: str) -> str:
        """The whole spec, of one model."""
        body = "\n".join([*self._blocks, *self._lines])
        before = "\n".join(["import std", *self._definitions])
        return f"{before}\n\narch Random() {{\n{body}\n}}\n\nmodel {model} = Random()\n"
