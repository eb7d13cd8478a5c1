"""Splits long statements over several lines, as black does.

The templates are written in black's style, so only long statements need work, and these have few shapes.
Black itself would take longer than the rest of a build; it formats only texts with other shapes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

LINE_LENGTH = 120
_INDENT = 4
_STRING_OR_SIGN = re.compile(r"""[rf]*"(?:[^"\\]|\\.)*"|[rf]*'(?:[^'\\]|\\.)*'|#.*|[()\[\]{},"']""")
_OPENING, _CLOSING = "([{", ")]}"
_DEFINITION = re.compile(r"def \w+\($")
_ITEM = re.compile(r"[\w.]*\($")  # a call, or a tuple
_IMPORT = re.compile(r"from [\w.]+ import ")
_CALL = re.compile(
    r"(?:[\w.]+(?:, [\w.]+)* \+?= |return |raise )?(?:[\w.]+ [-+*/] )?[\w.]+(?:\[[^\[\]]*\])?\($"
)
_CAST = re.compile(r"(?:\w+ = |return )tl\.load\(.*\)\.to\($")
_ASSIGNMENT = re.compile(r"\s*\w+ = ")
_OF_TABLE = re.compile(r" *\(\w+(?:, \w+)+\)\[[^\[\]]+\]\([^()]+\)")
_TWO_TERMS = re.compile(r"\w+ = \(.*\) [-+*/] \($")  # where those are all brackets
_SUM, _PRODUCT = ("+", "-"), ("*", "/")
# Displays, whose items black always puts on lines of their own: by what follows them.
_DISPLAYS = {
    "": re.compile(r"\w+ = [(\[{]$"),
    ",": re.compile(r'"\w+": [(\[{]$'),
    ":": re.compile(r"for \w+ in [(\[{]$"),
}


class UnknownShapeError(Exception):
    """A long statement that is left to black."""


@lru_cache(maxsize=4096)
def lay_out(text: str) -> str:
    """A text's long statements on several lines; raises `UnknownShapeError`.  Packages are alike in parts."""
    lines: list[str] = []
    in_string = False  # in one of several lines, as a docstring is
    for line in text.rstrip().splitlines():
        if in_string or '"""' in line or len(line.rstrip()) <= LINE_LENGTH:
            lines.append(line.rstrip())
        else:
            lines += _split(line.rstrip())
        in_string ^= line.count('"""') % 2 == 1
    return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class _Statement:
    """A statement of one line: its outer brackets, the commas between them, its comment."""

    code: str
    comment: str
    brackets: tuple[tuple[int, int], ...]
    commas: tuple[int, ...]  # those inside of one pair of brackets
    outer_commas: tuple[int, ...]

    def inside(self, opening: int, closing: int) -> list[str]:
        """What stands between two brackets, at its commas."""
        ends = [*(comma for comma in self.commas if opening < comma < closing), closing]
        starts = [opening, *ends[:-1]]
        pieces = [self.code[start + 1 : end].strip() for start, end in zip(starts, ends, strict=True)]
        return [piece for piece in pieces if piece]

    def imported(self) -> tuple[str, list[str]] | None:
        """What begins an import of several names, and those names."""
        start = _IMPORT.match(self.code)
        return (start[0], self.code[start.end() :].split(", ")) if start and self.outer_commas else None

    def returned(self) -> list[str]:
        """What a function returns, three values and more."""
        if not self.code.lstrip().startswith("return ") or len(self.outer_commas) < 2:
            return []
        start = self.code.index("return ") + len("return ")
        places = [start - 1, *self.outer_commas, len(self.code)]
        return [self.code[a + 1 : b].strip() for a, b in itertools.pairwise(places)]

    def terms(self) -> tuple[str, list[str]] | None:
        """What an arithmetic is assigned to, and its terms: each after the first with its operator.

        They are parted by the operators that bind least; None where those are fewer than two.
        """
        start = _ASSIGNMENT.match(self.code)
        if start is None:
            return None
        first, *rest = self._words(start.end())
        operators = rest[::2]
        if not set(operators) <= {*_SUM, *_PRODUCT}:
            return None
        least = _SUM if set(operators) & {*_SUM} else _PRODUCT
        if sum(operator in least for operator in operators) < 2:
            return None
        terms = [first]
        for operator, operand in zip(operators, rest[1::2], strict=True):
            if operator in least:
                terms.append(f"{operator} {operand}")
            else:
                terms[-1] += f" {operator} {operand}"
        return start[0], terms

    def _words(self, start: int) -> list[str]:
        """What spaces part, outside of brackets."""
        spaces = (found.start() for found in re.finditer(" ", self.code))
        outer = [space for space in spaces if not any(a < space < b for a, b in self.brackets)]
        places = [start - 1, *(space for space in outer if space >= start), len(self.code)]
        return [self.code[a + 1 : b] for a, b in itertools.pairwise(places)]


def _split(line: str) -> Iterator[str]:
    indent = len(line) - len(line.lstrip())
    statement = _read(line)
    if statement.comment:
        yield " " * indent + statement.comment
    if not statement.code.strip():
        return
    if len(statement.code) <= LINE_LENGTH:
        yield statement.code
        return
    if terms := statement.terms():
        yield from _operation(*terms, indent)
        return
    if values := statement.returned():
        yield from _in_brackets(" " * indent + "return ", values, indent)
        return
    if names := statement.imported():
        yield from _in_brackets(*names, indent)
        return
    opening, closing = _brackets(statement)
    items = statement.inside(opening, closing)
    head, tail = statement.code[: opening + 1], statement.code[closing:]
    if len(head) > LINE_LENGTH:
        yield from _long_targets(statement.code, indent)
        return
    if not items or len(tail) + indent > LINE_LENGTH:
        raise UnknownShapeError
    if len(items) > 1 and any(_has_loop(item) for item in items):  # `a for a, b in c`: no comma ends an item
        raise UnknownShapeError
    yield head
    yield from _body(items, indent + _INDENT, head)
    yield " " * indent + tail


def _long_targets(code: str, indent: int) -> Iterator[str]:
    """An assignment to so many names that no call fits beside them: it stands in brackets of its own."""
    targets, _, value = code.partition(" = ")
    if not value or len(targets) + len(" = (") > LINE_LENGTH:
        raise UnknownShapeError
    yield f"{targets} = ("
    yield from _split(" " * (indent + _INDENT) + value)
    yield " " * indent + ")"


def _has_loop(item: str) -> bool:
    """Whether ` for ` stands in an item, outside of brackets."""
    brackets = _read(item).brackets if " for " in item else ()
    places = [found.start() for found in re.finditer(" for ", item)]
    return any(not any(opening < place < closing for opening, closing in brackets) for place in places)


def _in_brackets(head: str, items: list[str], indent: int) -> Iterator[str]:
    """The items, one a line, in brackets of their own."""
    yield f"{head}("
    yield from _one_a_line(items, indent + _INDENT)
    yield " " * indent + ")"


def _operation(target: str, terms: list[str], indent: int) -> Iterator[str]:
    """Terms in brackets of their own: on one line where they fit, else one a line."""
    inner = " " * (indent + _INDENT)
    one_line = inner + " ".join(terms)
    lines = [one_line] if len(one_line) <= LINE_LENGTH else [inner + term for term in terms]
    if any(len(line) > LINE_LENGTH for line in lines):
        raise UnknownShapeError
    yield f"{target}("
    yield from lines
    yield " " * indent + ")"


def _body(items: list[str], indent: int, head: str) -> Iterator[str]:
    """The items on one line where they fit and are arguments, else one a line."""
    stripped = head.strip()
    one_line = " " * indent + ", ".join(items)
    if len(items) == 1 and _DEFINITION.match(stripped):
        one_line += ","
    is_display = not (_DEFINITION.match(stripped) or _CALL.match(stripped))
    if len(one_line) <= LINE_LENGTH and not (is_display and len(items) > 1):
        yield one_line
        return
    if len(items) == 1 and is_display:
        yield from _split(" " * indent + items[0])
        return
    if len(items) == 1:
        yield from _generator(items[0], indent)
        return
    yield from _one_a_line(items, indent)


def _generator(item: str, indent: int) -> Iterator[str]:
    """`element for name in values` on two lines, or more where the element alone is too long."""
    inner = " " * indent
    element, word, values = item.rpartition(" for ")
    clause = f"{inner}for {values}"
    is_one_loop = word and not (" for " in element or " if " in values or _read(clause).outer_commas)
    if not is_one_loop or len(clause) > LINE_LENGTH:
        raise UnknownShapeError
    yield from [inner + element] if len(inner + element) <= LINE_LENGTH else _called_of_table(inner + element)
    yield clause


def _called_of_table(line: str) -> Iterator[str]:
    """`(a, b, c)[i](x)`: black opens the last brackets that begin before the limit."""
    if not _OF_TABLE.fullmatch(line):
        raise UnknownShapeError
    statement = _read(line)
    opening, closing = next(pair for pair in reversed(statement.brackets) if pair[0] < LINE_LENGTH)
    indent = len(line) - len(line.lstrip())
    items = statement.inside(opening, closing)
    yield line[: opening + 1]
    if opening == indent:
        yield from _one_a_line(items, indent + _INDENT)
    else:
        yield " " * (indent + _INDENT) + ", ".join(items)
    yield " " * indent + line[closing:]


def _one_a_line(items: list[str], indent: int) -> Iterator[str]:
    for item in items:
        line = f"{' ' * indent}{item},"
        yield from [line] if len(line) <= LINE_LENGTH else _split(line)


def _brackets(statement: _Statement) -> tuple[int, int]:
    """The brackets to open: a function's parameters, else those at the end of the statement."""
    code = statement.code
    if not statement.brackets:
        raise UnknownShapeError
    if code.lstrip().startswith("def "):
        return statement.brackets[0]
    opening, closing = statement.brackets[-1]
    head, tail = code[: opening + 1].strip(), code[closing + 1 :]
    is_term = len(statement.brackets) == 2 and _TWO_TERMS.match(head)
    if tail == "" and _CAST.match(head):  # the cast's brackets, or those before it where these end too late
        return statement.brackets[-1 if opening < LINE_LENGTH else -2]
    is_last = (tail == "" and (is_term or _CALL.match(head))) or (tail == "," and _ITEM.match(head))
    if code[closing - 1] == "," or not (is_last or (tail in _DISPLAYS and _DISPLAYS[tail].match(head))):
        raise UnknownShapeError
    return opening, closing


def _read(line: str) -> _Statement:
    """Raises `UnknownShapeError` for part of a statement."""
    brackets: list[tuple[int, int]] = []
    commas: list[int] = []
    outer_commas: list[int] = []
    opened: list[int] = []
    code, comment = line, ""
    for found in _STRING_OR_SIGN.finditer(line):
        sign, place = found[0], found.start()
        if sign[0] == "#":
            code, comment = line[:place].rstrip(), sign
        elif sign in _OPENING:
            opened.append(place)
        elif sign in _CLOSING:
            if not opened:
                raise UnknownShapeError
            start = opened.pop()
            if not opened:
                brackets.append((start, place))
        elif sign == "," and len(opened) <= 1:
            (commas if opened else outer_commas).append(place)
        elif sign in "\"'":
            raise UnknownShapeError
    if opened:
        raise UnknownShapeError
    return _Statement(code, comment, tuple(brackets), tuple(commas), tuple(outer_commas))
