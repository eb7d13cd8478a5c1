"""Text -> syntax tree.  Checks the grammar and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from lark import UnexpectedInput

from archc.errors import Reporter, Source, Span
from archc.frontend import mistakes, syntax
from archc.frontend.limits import MAX_SOURCE
from archc.frontend.slips import refused, syntax_mistake
from archc.frontend.tokens import RefusedTokenError, parser
from archc.frontend.tree import RefusedError, TreeBuilder

_MAX_SYNTAX_MISTAKES = 10
_MAX_REPAIRED = 20_000  # characters of a spec that is searched for more than its first syntax mistake

# What may stand in place of a line that opened a body, so that the lines after it are parsed as they were.
_HEADS = ("if 0 {", "block _() {", "arch _() {")


def parse(source: Source, reporter: Reporter) -> syntax.Spec | None:
    """The syntax tree of a spec, or None when it has syntax mistakes, which are reported."""
    if len(source.text) > MAX_SOURCE:
        value = f"{len(source.text)} characters"
        start = Span(source, 1, 1, 1, 1)
        reporter.report(mistakes.TooLarge(start, what="the spec", value=value, limit=MAX_SOURCE))
        return None
    try:
        return _tree(source)
    except UnexpectedInput as error:
        _report_all(source, error, reporter)
    except RefusedTokenError as error:
        reporter.report(refused(source, error.token))
    except RefusedError as error:
        reporter.report(error.mistake)
    return None


@lru_cache(maxsize=64)
def _tree(source: Source) -> syntax.Spec:
    """The syntax tree of a source; of equal ones, such as the standard library's, once in a process."""
    return TreeBuilder(source).build(parser().parse(source.text))


def _report_all(source: Source, error: UnexpectedInput, reporter: Reporter) -> None:
    """Report an error, then look for more after the statement at fault."""
    text = source.text
    for _ in range(_MAX_SYNTAX_MISTAKES):
        mistake = syntax_mistake(source, text, error)
        reporter.report(mistake)
        if mistake.notes or len(text) > _MAX_REPAIRED:
            return  # with a bracket still open, nothing after it is certain
        following = _error_after(text, error.line)
        if following is None:
            return
        text, error = following


def _error_after(text: str, line: int) -> tuple[str, UnexpectedInput] | None:
    """The text without the statement at fault, and its next error; None without one that can be trusted."""
    best: tuple[str, UnexpectedInput] | None = None
    for repaired in _repairs(text, line):
        try:
            parser().parse(repaired)
            return None
        except UnexpectedInput as error:
            if best is None or error.line > best[1].line:
                best = repaired, error
        except RefusedTokenError:
            return None
    return best if best is not None and best[1].line > line else None


def _repairs(text: str, line: int) -> Iterator[str]:
    """The text with the statement around a line blanked out but for the bodies that it opens or closes."""
    lines = text.split("\n")
    depths = _bracket_depths(lines)
    first = max((number for number in range(line) if depths[number] == 0), default=None)
    last = next((number for number in range(line, len(lines) + 1) if depths[number] == 0), None)
    if first is None or last is None:
        return
    braces = re.sub(r"[^{}]", "", "".join(map(_bare, lines[first:last])))
    while "{}" in braces:
        braces = braces.replace("{}", "")
    for head in _HEADS if "{" in braces else ("",):
        blank = [braces.replace("{", head), *[""] * (last - first - 1)]
        yield "\n".join([*lines[:first], *blank, *lines[last:]])


def _bracket_depths(lines: list[str]) -> list[int]:
    """How many `(` and `[` are open before each line, and at the end."""
    depths = [0]
    for line in lines:
        bare = _bare(line)
        opened = len(re.findall(r"[(\[]", bare))
        closed = len(re.findall(r"[)\]]", bare))
        depths.append(max(0, depths[-1] + opened - closed))
    return depths


def _bare(line: str) -> str:
    """A line without its strings and comment."""
    return re.sub(r'"[^"]*"|#.*', "", line)
