"""What can be at fault, where, and how a person is told.

A `Mistake` is one fault in a spec.  Its subclasses give the wording as a template; the place that finds the
fault gives the facts.  Mistakes are collected in a `Reporter` and leave it together, as one `SpecError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, TypeVar

_NOT_IN_DOCSTRINGS = str.maketrans({'"': "?", "\\": "?"})
NEAR = 0.6  # of two names that are much alike, by difflib's ratio

T = TypeVar("T")


class ArchcError(Exception):
    """A fault that a user can mend; its text is all they see."""


@dataclass(frozen=True)
class Source:
    """The text of one spec and the name it goes by in messages; `standard` for those that come with archc.

    `digest` is the SHA-256 of the file that it was read from, in hexadecimal; empty where there is none.
    """

    name: str
    text: str = field(repr=False)
    standard: bool = False
    digest: str = field(default="", repr=False, compare=False)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.split("\n")


@dataclass(frozen=True)
class Span:
    """A stretch of source; lines and columns count from 1, the end is exclusive."""

    source: Source
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"

    @property
    def line_reference(self) -> str:
        """`specs/llama3.arch:24`, as generated code cites it, in docstrings as well."""
        name = self.source.name.translate(_NOT_IN_DOCSTRINGS)
        return f"{name}:{self.line}"

    def excerpt(self) -> str:
        """The source line with carets under the stretch."""
        text = self.source.lines[self.line - 1] if self.line <= len(self.source.lines) else ""
        end = self.end_column if self.end_line == self.line else len(text) + 1
        start, text = _window(self.column, text)
        width = max(1, min(end - self.column, len(text) - start + 1))
        gutter = f"{self.line:5} | "
        margin = " " * (len(gutter) - 2) + "| "
        pad = "".join("\t" if char == "\t" else " " for char in text[: start - 1])
        return f"{gutter}{printable(text)}\n{margin}{pad}{'^' * width}"


def _window(column: int, text: str, width: int = 140) -> tuple[int, str]:
    """The part of a long line around `column`, and the column within it."""
    if len(text) <= width:
        return column, text
    start = max(0, column - 1 - width // 3)
    return column - start, text[start : start + width]


def printable(text: str) -> str:
    """The text with `?` for characters that would move a terminal's cursor or change its colours."""
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in text)


@dataclass(frozen=True)
class Note:
    """A second place that matters to a mistake."""

    text: str
    span: Span | None

    def render(self) -> str:
        return f"{self.span}: note: {self.text}" if self.span else f"note: {self.text}"


class Mistake:
    """One fault of a spec.  Subclasses word it; `facts` fill the templates."""

    message: ClassVar[str]
    hint: ClassVar[str] = ""

    def __init__(self, span: Span, *, hint: str | None = None, notes: Iterable[Note] = (), **facts: object):
        self.span = span
        self.text = printable(self.message.format(**facts))
        self.advice = printable(hint if hint is not None else self.hint.format(**facts))
        self.notes = tuple(notes)

    def moved(self, span: Span, note: Note) -> Mistake:
        """The mistake at another place, with a note on where it was found."""
        twin = copy(self)
        twin.span, twin.notes = span, (note, *self.notes)
        return twin

    def noting(self, note: Note) -> Mistake:
        """The mistake with one more note, after the others."""
        twin = copy(self)
        twin.notes = (*self.notes, note)
        return twin

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for the same fault found twice, as when two models share a block."""
        return (type(self), self.span, self.text)

    def render(self) -> str:
        lines = [f"{self.span}: error: {self.text}", self.span.excerpt()]
        if self.advice:
            lines.append(f"      = {self.advice}")
        return "\n".join([*lines, *(note.render() for note in self.notes)])


class SpecError(ArchcError):
    """A spec with mistakes: those found, or the first of very many."""

    def __init__(self, mistakes: Iterable[Mistake], more: bool = False):
        self.mistakes, self.more = tuple(mistakes), more
        texts = [mistake.render() for mistake in self.mistakes]
        super().__init__("\n\n".join([*texts, "there are more mistakes, not shown"] if more else texts))

    def __reduce__(self) -> tuple[type[SpecError], tuple[object, ...]]:
        """For an error that leaves the process which found it."""
        return type(self), (self.mistakes, self.more)


class Reporter:
    """Collects mistakes, each once, in the order of the source."""

    limit = 50

    def __init__(self, found: Iterable[Mistake] = ()) -> None:
        self._mistakes = {mistake.identity: mistake for mistake in found}
        self._more = False

    def report(self, mistake: Mistake) -> None:
        if mistake.identity in self._mistakes:
            return
        if self.is_full:
            self._more = True
        else:
            self._mistakes[mistake.identity] = mistake

    def __bool__(self) -> bool:
        return bool(self._mistakes)

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """Those collected so far."""
        return tuple(self._mistakes.values())

    @property
    def is_full(self) -> bool:
        """Whether further mistakes would not be shown."""
        return len(self._mistakes) >= self.limit

    def raise_if_any(self) -> None:
        if self._mistakes:
            names = [mistake.span.source.name for mistake in self._mistakes.values()]
            order = sorted(
                self._mistakes.values(),
                key=lambda m: (names.index(m.span.source.name), m.span.line, m.span.column),
            )
            raise SpecError(order, self._more)

    def result(self, found: T | None) -> T:
        """What was found, or `SpecError` with the mistakes collected; without any there is a result."""
        self.raise_if_any()
        assert found is not None
        return found


def did_you_mean(name: str, known: Iterable[str], cutoff: float = NEAR) -> str:
    """`did you mean `kv_heads`?`, or nothing when no known name is near, by difflib's ratio."""
    if len(name) > 100:
        return ""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    begun = [each for each in names if len(name) > 2 and each.startswith(name)]
    near = sorted(begun, key=len)[:1] or near
    return f"did you mean `{near[0]}`?" if near else ""
