"""Parameter paths: what `as` and `tied_to` say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from archc.errors import Span, did_you_mean
from archc.frontend import arithmetic, mistakes, syntax
from archc.frontend.expressions import Expressions
from archc.frontend.limits import MAX_NAME, MAX_PATH
from archc.frontend.values import POISON, ArithmeticMistake, Env, LoopValue, Poison, describe, peek
from archc.ir.paths import Index, Path, path_text
from archc.ir.records import Symbol

UNKNOWN = "?"  # what stands for a segment after a mistake
_SEGMENT = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_\-]{{0,{MAX_NAME - 1}}}")
# What to write where a string has braces that it cannot have.
_JOINED = (
    'in a string, braces end a segment after other characters: "layer_{i}"; else `{name + "_bias"}`, unquoted'
)
# Why a path of a loop is not found, and how layers are shared that run several times.
IN_LOOPS = (
    "what a loop holds can be shared only inside of it; layers that run several times have "
    'their paths as strings, such as `as {"layers." + i}`'
)
_UNQUOTED = re.compile(r"(\w+|\{\w+\})(\.(\w+|\{\w+\}))*")  # a path that needs no quotes
_COUNTED = re.compile(r"([^{}]+)\{([A-Za-z_]\w*)\}")


class Paths(Expressions):
    """Evaluation of paths."""

    def path_of(self, path: syntax.Path, env: Env) -> Path:
        """The path that was written, with loop variables left open."""
        segments: list[str | Index] = []
        for segment in path.segments:
            if isinstance(segment, str):
                segments += self._quoted(segment, path.span, env)
            else:
                segments += self._computed(self.evaluate(segment, env), segment.span)
        if len(self.prefix) + len(segments) > MAX_PATH:
            value = f"{len(self.prefix) + len(segments)} segments"
            self.report(mistakes.TooLarge(path.span, what="a parameter path", value=value, limit=MAX_PATH))
            return (UNKNOWN,)
        return tuple(segments) if self.prefix else self.placed(tuple(segments))

    def placed(self, path: Path) -> Path:
        """A whole path of the arch, as the checkpoint has it."""
        if self.moved is None or path[:1] != (self.moved[0],):
            return path
        return (*self.moved[1], *path[1:])

    def _quoted(self, text: str, span: Span, env: Env) -> Sequence[str | Index]:
        """The segments of a text; one may end in a loop variable in braces, `experts.expert_{e}`."""
        if "{" not in text:
            return self._literal(text, span)
        segments: list[str | Index] = []
        for part in text.split(".", MAX_PATH + 1):
            counted = _COUNTED.fullmatch(part)
            if counted is None:
                own = part.startswith("{") and _UNQUOTED.fullmatch(text)
                hint = f"without the quotes it is: `{text}`" if own else _JOINED
                segments += self._literal(part, span, hint)
                continue
            prefix, variable = counted.groups()
            before = self._literal(prefix, span)[0]
            found = self._computed(self.evaluate(syntax.Name(span, variable), env), span)
            segments += _prefixed(before, found)
        return segments

    def _literal(self, text: str, span: Span, hint: str = _JOINED) -> list[str]:
        """The segments of a text without braces; `hint` is for braces that are in it after all."""
        segments = text.split(".", MAX_PATH + 1)
        wrong = next((segment for segment in segments if not _SEGMENT.fullmatch(segment)), None)
        if wrong is None:
            return segments
        expected, found = "letters, digits, `_` and `-`", f'"{wrong[:40]}"'
        hint = hint if "{" in wrong else ""
        self.report(
            mistakes.WrongValue(span, what="a path segment", expected=expected, found=found, hint=hint)
        )
        return [UNKNOWN]

    def _computed(self, value: Any, span: Span) -> Sequence[str | Index]:
        """The segments of a value: an index, a number, those of a string, none of `none`."""
        plain = peek(value)
        if isinstance(plain, Poison):
            return [UNKNOWN]
        if isinstance(value, LoopValue) and isinstance(plain, int):
            index = self._affine(value)
            if index is None:
                self.report(mistakes.BadPathIndex(span))
            return [index or UNKNOWN]
        if plain is None:
            return []
        if isinstance(plain, str) or (isinstance(plain, int) and not isinstance(plain, bool)):
            return self._literal(str(self.known(value)), span)
        self.report(
            mistakes.WrongValue(
                span,
                what="a path segment",
                expected="a whole number, a string or `none`",
                found=describe(value),
            )
        )
        return [UNKNOWN]

    def _affine(self, value: LoopValue) -> Index | None:
        """The index segment that follows a number, None where it is not linear in one loop variable."""
        if len(value.variables) != 1:
            return None
        (variable,) = value.variables
        run = self.steps[variable]
        self.spend(len(run))
        try:
            numbers = [value.at({variable: step}) for step in run]
        except (ArithmeticMistake, ValueError):
            return None
        if not all(arithmetic.is_number(number) for number in numbers):
            return None
        scale = (numbers[1] - numbers[0]) // (run[1] - run[0]) if len(run) > 1 else 1
        index = Index(variable, int(scale), int(numbers[0] - scale * run[0]))
        follows = all(index.at({variable: step}) == number for step, number in zip(run, numbers, strict=True))
        return index if follows else None

    def tie_path(self, expr: syntax.Expr, env: Env) -> Path | Poison | Literal[False] | None:
        """The whole path that a `tied_to` argument names; `none` and `false` stay what they are."""
        if isinstance(expr, syntax.Conditional):
            condition = self.condition(expr.condition, env, "a condition")
            if isinstance(condition, Poison):
                return POISON
            chosen = expr.chosen if condition else expr.other
            return self.tie_path(chosen, env) if chosen is not None else None
        names = dotted(expr)
        if names is not None and not _is_bound(names, env):
            return self._find_tied(names, expr.span)
        value = self.known(self.evaluate(expr, env))
        if isinstance(value, str) and not isinstance(value, Symbol):
            return self._find_tied(tuple(value.split(".", MAX_PATH)), expr.span)
        if value is None or value is False:
            return value
        if isinstance(value, Poison):
            return POISON
        expected = "a parameter path, `none` or `false`"
        hint = (
            f'`{names[0]}` is a variable here: a path of that name is written "{names[0]}"' if names else ""
        )
        self.report(
            mistakes.WrongValue(
                expr.span, what="`tied_to`", expected=expected, found=describe(value), hint=hint
            )
        )
        return POISON

    def _find_tied(self, names: tuple[str, ...], span: Span) -> Path | Poison:
        """The path of parameters that exist, looked for like a name: from the paths around it outwards."""
        self.spend(len(self.weights))
        for depth in range(len(self.prefix), -1, -1):
            path = self.prefix[:depth] + names if depth else self.placed(names)
            if any(known[: len(path)] == path for known in self.weights):
                return path
            if any(lost[: len(path)] == path for lost in self.lost):
                return POISON
        known = [path_text(path[:-1]) for path in self.weights if not any(isinstance(s, Index) for s in path)]
        hint = did_you_mean(".".join(names), known)
        if any(_is_in_loop(path, names) for path in self.weights):
            hint = IN_LOOPS
        self.report(mistakes.UnknownTie(span, path=".".join(names), hint=hint))
        return POISON


def _is_in_loop(path: Path, names: Sequence[str]) -> bool:
    """Whether names are those of a path with loop variables, left out or with numbers in their place."""
    plain = [segment for segment in path if isinstance(segment, str)]
    pairs = zip(path, names, strict=False)
    return plain[: len(names)] == list(names) or (
        len(path) >= len(names)
        and all(name.isdigit() if isinstance(each, Index) else each == name for each, name in pairs)
    )


def _prefixed(prefix: str, found: Sequence[str | Index]) -> list[str | Index]:
    """Segments, the first with a prefix."""
    if UNKNOWN in (prefix, *found):
        return [UNKNOWN]
    first, *others = found or [""]
    return [replace(first, prefix=prefix) if isinstance(first, Index) else f"{prefix}{first}", *others]


def dotted(expr: syntax.Expr) -> tuple[str, ...] | None:
    """`model.embed_tokens` as its names, None for another kind of expression."""
    if isinstance(expr, syntax.Name):
        return (expr.name,)
    if isinstance(expr, syntax.Attribute):
        inner = dotted(expr.target)
        return None if inner is None else (*inner, expr.name)
    return None


def _is_bound(names: tuple[str, ...], env: Env) -> bool:
    """Whether a single name is a variable, as in `tied_to = tie`, rather than a path."""
    return len(names) == 1 and names[0] in env.known()
