"""Syntax errors -> mistakes: what was found, what was meant, which bracket is still open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lark import Token, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from archc.errors import Mistake, Note, Source, Span
from archc.frontend import mistakes
from archc.frontend.limits import MAX_NAME, MAX_NESTING
from archc.frontend.syntax import RESERVED_WORDS
from archc.frontend.tokens import OPENING, open_brackets, tokens

_FRIENDLY = {
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a string",
    "INTEGER": "a number",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "EQUAL": "`=`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "DOT": "`.`",
    "IN": "`in`",
    "ELSE": "`else`",
    "FUSE": "`fuse`",
    "MODEL": "`model`",
    "ARCH": "`arch`",
    "BLOCK": "`block`",
    "IMPORT": "`import`",
    "FORWARD": "`forward`",
    "IGNORE": "`ignore`",
    "EXPECT": "`expect`",
    "LOSS": "`loss`",
    "NOTE": "`note`",
}
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_SIGNS = ("+", "-", "*", "/", "**", "%")
_ITEMS = ("import", "arch", "block", "model", "fuse", "forward", "ignore")


@dataclass(frozen=True)
class _Error:
    """Where the parser stopped: what it found there, the rest of the line, the tokens before."""

    found: str
    span: Span
    before: list[Token]

    @property
    def following(self) -> str:
        return self.span.source.lines[self.span.end_line - 1][self.span.end_column - 1 :]

    @property
    def previous(self) -> str:
        return str(self.before[-1]) if self.before else ""

    @property
    def opener(self) -> str:
        """The word that the line starts with."""
        return str(next((token for token in self.before if token.line == self.span.line), ""))

    @property
    def is_chained(self) -> bool:
        last = next(
            (t for t in reversed(self.before) if t.type in ("COMPARISON", "AND", "OR", "EQUAL")), None
        )
        return last is not None and last.type == "COMPARISON"

    @property
    def begins(self) -> bool:
        """Whether a statement begins with the token before."""
        first, *earlier = reversed(self.before[-2:] or [Token("", "")])
        return first.type == "NAME" and all(t == "{" or t.line != first.line for t in earlier)

    @property
    def is_inside(self) -> bool:
        """Whether a parenthesis is open that was opened on this line."""
        inner = open_brackets(self.before)[-1:]
        return any(token.line == self.span.line and token != "{" for token in inner)

    @property
    def lacks_a_comma(self) -> bool:
        """Whether a value stands right after another one, in parentheses or a list."""
        ended = self.before and self.before[-1].type in ("NAME", "NUMBER", "STRING", "RPAR", "RSQB")
        beside = ended and self.before[-1].line == self.span.line and self.found[:1].isalnum()
        return bool(beside) and open_brackets(self.before)[-1:] in (["("], ["["])

    @property
    def lacks_a_value(self) -> bool:
        """Whether a sign, a comma or the end of brackets stands where a value should."""
        signs = {*_SIGNS, "//", ","}
        return self.found in signs | {")", "]"} and self.previous in signs | {"=", "(", "["}

    @property
    def is_unit(self) -> bool:
        """Whether a word stands right after a number, as in `128k`."""
        number = self.before[-1] if self.before else None
        end = (number.end_line, number.end_column) if number and number.type == "NUMBER" else None
        return end == (self.span.line, self.span.column) and self.found[:1].isalpha()


# What word processors make of the quotes of a string.
_QUOTES = tuple("\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb")

# What people write by habit from other languages, and what to write here.
_SLIPS: tuple[tuple[Callable[[_Error], bool], str], ...] = (
    (lambda e: e.found == "=" and e.previous in RESERVED_WORDS, "`{previous}` is a word of the language"),
    (lambda e: e.found == '"', "close it on the same line"),
    (lambda e: e.found == "'", 'strings stand in double quotes: "..."'),
    (lambda e: e.found in _QUOTES, 'strings stand in plain double quotes: "..."'),
    (lambda e: not e.found.isascii(), "names have letters a to z, A to Z, digits and `_`; signs are ASCII"),
    (lambda e: e.found == "(" and e.before[-2:-1] == ["scan"], "a `scan` runs over a name"),
    (lambda e: e.found == "(" and e.begins, "write `y = {previous}(...)` or `return {previous}(...)`"),
    (lambda e: e.found == "@", "`matmul(x, y)` multiplies matrices"),
    (lambda e: e.found == "^", "a power is written `x ** 2`"),
    (lambda e: e.found.isdigit() and e.previous == ".", 'a path with numbers is a string here: "layers.0"'),
    (lambda e: e.found == "{" and e.previous == "=", "braces stand in a path after `as`; here a string can"),
    (lambda e: e.opener in ("def", "fn", "class"), "write `block f(x) {{ ... }}` or `arch A() {{ ... }}`"),
    (lambda e: e.opener == "while", "a loop runs over a range or a list: `for i in 0..n {{ ... }}`"),
    (lambda e: e.opener == "model" and e.found == "-", "one name stands before `->`: `as body -> a.body`"),
    (lambda e: e.found == ">" and e.previous == "-", "a function is a `block`"),
    (lambda e: e.found in ("&", "|", "!"), "write `and`, `or`, `not`"),
    (lambda e: e.found == ";", "a statement ends with its line"),
    (lambda e: e.found == "//" or (e.found == "/" and e.following[:1] == "*"), "a comment starts with `#`"),
    (lambda e: e.found in ("+", "-", "*", "/") and e.following[:1] == "=", "write `x = x {found} ...`"),
    (lambda e: e.found in _SIGNS and e.begins, "write `{previous} = {previous} {found} ...`, or `return`"),
    (lambda e: e.found == "." and e.following[:1].isdigit(), "a number starts with a digit: `0.5`"),
    (lambda e: e.is_unit, "the units of numbers are K, M, G and T: powers of 1024"),
    (lambda e: e.found == "=" and e.opener in ("if", "else"), "two values are compared with `==`"),
    (lambda e: e.found == ":" and e.opener in ("if", "else", "for"), "what belongs to it stands in braces"),
    (lambda e: e.previous == "elif", "write `else if`"),
    (lambda e: e.found == "elif", "write `else if`"),
    (lambda e: e.found in _COMPARISONS and e.is_chained, "join two comparisons by `and`"),
    (lambda e: e.found == "as" and e.is_inside, "close the parenthesis before it"),
    (lambda e: e.found == "as", "`as` follows a call: `linear(...) as q_proj`"),
    (lambda e: e.found in _ITEMS, "it stands outside of bodies: is a `}}` missing before it?"),
    (lambda e: e.lacks_a_value, "a value is missing before it"),
    (lambda e: e.found == "else", "an `if` inside of an expression stays on its line, or in parentheses"),
)  # fmt: skip


def syntax_mistake(source: Source, text: str, error: UnexpectedInput) -> Mistake:
    """What to tell of a syntax error in `text`, which is the source's but for lines that were blanked out."""
    before = [t for t in tokens(text) if (t.line, t.column) < (error.line, error.column) or error.line < 0]
    if isinstance(error, UnexpectedToken):
        return _of_token(source, error, before)
    assert isinstance(error, UnexpectedCharacters)
    span = Span(source, error.line, error.column, error.line, error.column + 1)
    char = text[error.pos_in_stream or 0]
    found = "string without an end" if char == '"' else f"character `{char}`"
    return _mistake(found, _Error(char, span, before), None)


def _of_token(source: Source, error: UnexpectedToken, before: list[Token]) -> Mistake:
    if error.token.type == "$END":
        return _mistake("end of the spec", _Error("", _end_span(source), before), error)
    span = token_span(source, error.token)
    if before and before[-1].line == span.line and before[-1] in _ITEMS and open_brackets(before):
        word = before[-1]  # such as `block` inside of a body, where it was taken for a variable
        return _mistake(f"`{word}`", _Error(word, token_span(source, word), before[:-1]), None)
    return _mistake(f"`{error.token}`", _Error(error.token, span, before), error)


def _mistake(found: str, place: _Error, error: UnexpectedToken | None) -> Mistake:
    hint = next((hint for slip, hint in _SLIPS if slip(place)), "").format(
        found=place.found, previous=place.previous
    )
    if not hint and error is not None:
        hint = _expected(error) or ("a comma is missing before it" if place.lacks_a_comma else "")
    return mistakes.BadSyntax(place.span, found=found, hint=hint, notes=_open_note(place))


def _expected(error: UnexpectedToken) -> str:
    names: Any = error.accepts or error.expected
    expected = {_FRIENDLY.get(name, "") for name in names} - {""}
    return f"expected {' or '.join(sorted(expected))}" if 0 < len(expected) <= 4 else ""


def _open_note(place: _Error) -> list[Note]:
    """The bracket that was probably meant to be closed before."""
    source = place.span.source
    earlier = [token for token in open_brackets(place.before) if token.line != place.span.line]
    by_layout = [t for t in earlier if _indent(token_span(source, t)) >= _indent(place.span)]
    if not by_layout and (not earlier or OPENING[earlier[-1].type] == "{"):
        return []
    bracket = by_layout[0] if by_layout else earlier[-1]
    return [Note(f"this `{bracket}` is still open", token_span(source, bracket))]


def _indent(span: Span) -> int:
    """How far the line of a place is indented; an end of the spec not at all."""
    line = span.source.lines[span.line - 1]
    return len(line) - len(line.lstrip()) if span.column <= len(line) else 0


def refused(source: Source, token: Token) -> Mistake:
    """A token that breaks a limit."""
    span = token_span(source, token)
    if token.type in OPENING:
        return mistakes.TooDeep(span, limit=MAX_NESTING)
    value = f"{len(token)} characters"
    return mistakes.TooLarge(span, what="the length of a name", value=value, limit=MAX_NAME)


def token_span(source: Source, token: Any) -> Span:
    """Where a token stands."""
    return Span(source, token.line, token.column, token.end_line, token.end_column)


def _end_span(source: Source) -> Span:
    line = len(source.lines)
    while line > 1 and not source.lines[line - 1].strip():
        line -= 1
    column = len(source.lines[line - 1]) + 1
    return Span(source, line, column, line, column)
