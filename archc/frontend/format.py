"""`archc fmt`: the layout of specs.  Line breaks and comments stay; indentation and spaces are set.

A line is indented by two spaces more than the line that holds the bracket around it, and so is one that goes
on with the statement before it.  Where the `=`, `as` or `#` of lines in one body stand in one column, with
spaces in front, that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from lark import Token

from archc.errors import Reporter, Source
from archc.files import write_whole
from archc.frontend.parse import parse
from archc.frontend.resolve import read_spec
from archc.frontend.slips import token_span
from archc.frontend.tokens import CLOSING, OPENING, opens_path_index, tokens

_INDENT = 2
_ALIGNED = ("EQUAL", "AS", "COMMENT")
_VALUES = ("NAME", "NUMBER", "INTEGER", "STRING", "TRUE", "FALSE", "NONE", "RPAR", "RSQB", "PATH_END")
_OPERATORS = (
    *("COMPARISON", "SUM_OPERATOR", "PRODUCT_OPERATOR", "POWER", "RANGE"),
    *("EQUAL", "COMMA", "DOT", "COLON", "AS", "AND", "OR", "IN", "COND_IF"),
)
_OPENS = (*_OPERATORS, "NEGATIVE", "NOT", "RETURN")  # a line that ends with one goes on in the next
_GOES_ON = (*_OPERATORS, "LPAR", "LSQB")  # and so does one that is followed by a line which starts with one


@dataclass
class _Word:
    """A token or comment: its text and kind, its column in the source, the spaces before it."""

    text: str
    kind: str
    column: int
    gap: int = 0


@dataclass(frozen=True)
class _Bracket:
    """An open bracket: its kind, the indentation of its line, its number in the source."""

    kind: str
    indent: int
    number: int


@dataclass
class _Line:
    """A line of the source, and the number of the bracket that it starts in."""

    words: list[_Word] = field(default_factory=list)
    indent: int = 0
    bracket: int = 0

    def end(self, place: int) -> int:
        """The column where the word before a place ends."""
        return self.indent + sum(word.gap + len(word.text) for word in self.words[:place])

    @property
    def text(self) -> str:
        return " " * self.indent + "".join(" " * word.gap + word.text for word in self.words)


def format_spec(source: Source, reporter: Reporter) -> str | None:
    """The text of a spec, laid out; None when it has syntax mistakes, which are reported."""
    if parse(source, reporter) is None:
        return None
    lines = _lines(source)
    _indent(lines)
    for line in lines:
        _space(line.words)
    _align(lines)
    return _without_blank_runs([line.text for line in lines])


def _lines(source: Source) -> list[_Line]:
    """The words of each line of the source."""
    lines = [_Line() for _ in source.lines]
    open_brackets: list[str] = []
    previous: Token | None = None
    for token in tokens(source.text):
        kind = _kind(token, previous, open_brackets)
        span = token_span(source, token)
        lines[span.line - 1].words.append(_Word(str(token), kind, span.column))
        previous = token
    for line, text in zip(lines, source.lines, strict=True):
        end = line.words[-1].column - 1 + len(line.words[-1].text) if line.words else 0
        comment = text[end:].strip()
        if comment:
            line.words.append(_Word(comment, "COMMENT", text.index("#", end) + 1))
    return lines


def _kind(token: Token, previous: Token | None, brackets: list[str]) -> str:
    """The role of a token: its terminal, but for braces in paths and signs of numbers."""
    if token.type in OPENING:
        brackets.append("PATH_START" if opens_path_index(previous, token) else token.type)
        return brackets[-1]
    if token.type in CLOSING:
        return "PATH_END" if brackets.pop() == "PATH_START" else token.type
    if token == "-" and (previous is None or previous.type not in (*_VALUES, "RBRACE")):
        return "NEGATIVE"
    names = {"LOOP_AS": "AS", "**": "POWER", "..": "RANGE", ";": "SEMICOLON"}
    return names.get(token.type) or names.get(str(token)) or token.type


def _indent(lines: Sequence[_Line]) -> None:
    """Set the indentation of every line."""
    opened = [_Bracket("LBRACE", -_INDENT, 0)]  # the spec itself, and the brackets that are open
    count = 0
    last = ""  # the kind of the last word before a line
    for line in lines:
        words = [word.kind for word in line.words if word.kind != "COMMENT"]
        leading = _leading_closers(words)
        around = opened[-1]
        line.bracket = around.number
        line.indent = opened[-leading].indent if leading else around.indent + _INDENT
        if words and not leading and around.kind == "LBRACE" and _goes_on(last, words[0]):
            line.indent += _INDENT
        for kind in words:
            if kind in OPENING or kind == "PATH_START":
                count += 1
                opened.append(_Bracket(kind, line.indent, count))
            elif kind in CLOSING or kind == "PATH_END":
                opened.pop()
        last = words[-1] if words else last


def _leading_closers(kinds: Sequence[str]) -> int:
    count = 0
    while count < len(kinds) and kinds[count] in CLOSING:
        count += 1
    return count


def _goes_on(last: str, first: str) -> bool:
    """Whether a line that starts with a word is part of the statement whose line ended with another."""
    return last in _OPENS or first in _GOES_ON or (first == "ELSE" and last != "RBRACE")


def _space(words: Sequence[_Word]) -> None:
    """Set the spaces between the words of a line."""
    for left, right in pairwise(words):
        right.gap = 2 if right.kind == "COMMENT" else int(_is_apart(left.kind, right.kind))


def _is_apart(left: str, right: str) -> bool:
    """Whether a space stands between two words."""
    if left in ("LPAR", "LSQB", "PATH_START", "DOT", "RANGE", "NEGATIVE"):
        return False
    if right in ("RPAR", "RSQB", "PATH_END", "DOT", "RANGE", "COMMA", "COLON", "SEMICOLON"):
        return False
    if right in ("LPAR", "LSQB"):
        return left not in ("NAME", "RPAR", "RSQB", "FUSE", "FORWARD", "PATH_END")
    return (left, right) != ("LBRACE", "RBRACE")


def _align(lines: Sequence[_Line]) -> None:
    """Keep columns that were aligned on purpose, from left to right."""
    groups: dict[tuple[int, str, int], list[tuple[_Line, int]]] = {}
    for line in lines:
        for place, word in enumerate(line.words):
            if place and word.kind in _ALIGNED:
                groups.setdefault((word.column, word.kind, line.bracket), []).append((line, place))
    for _, group in sorted(groups.items()):
        if any(_is_set_apart(line, place) for line, place in group):
            column = max(line.end(place) + line.words[place].gap for line, place in group)
            for line, place in group if len(group) > 1 else ():
                line.words[place].gap = column - line.end(place)


def _is_set_apart(line: _Line, place: int) -> bool:
    """Whether a word had more spaces before it in the source than it needs."""
    before, word = line.words[place - 1], line.words[place]
    return word.column - (before.column + len(before.text)) > (2 if word.kind == "COMMENT" else 1)


def _without_blank_runs(lines: Sequence[str]) -> str:
    """The lines as a text with single blank lines, none at its start, and a line break at its end."""
    kept: list[str] = []
    for line in lines:
        if line.strip() or (kept and kept[-1]):
            kept.append(line.rstrip())
    while kept and not kept[-1]:
        kept.pop()
    return "".join(f"{line}\n" for line in kept)


def format_file(path: Path, only_check: bool) -> bool:
    """Lay out a file, in place unless `only_check`; whether it changes.

    Raises `SpecError` for one with syntax mistakes, which is left as it is, and `ArchcError` for one that
    cannot be read or written.
    """
    reporter = Reporter()
    text = reporter.result(format_spec(read_spec(path), reporter))
    changes = path.read_bytes() != text.encode()
    if changes and not only_check:
        write_whole(path.resolve(), text)
    return changes
