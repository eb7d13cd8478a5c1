"""Text -> tokens.  Tells a statement's `if` from an expression's, and a loop's `as` from a call's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from lark import Lark, Token, UnexpectedInput
from lark.lark import PostLex

from archc import resources
from archc.frontend.limits import MAX_NAME, MAX_NESTING

OPENING = {"LPAR": "(", "LSQB": "[", "LBRACE": "{"}
CLOSING = {"RPAR": "LPAR", "RSQB": "LSQB", "RBRACE": "LBRACE"}


class RefusedTokenError(Exception):
    """A token that breaks a limit: a name that is too long, or a bracket that lies too deep."""

    def __init__(self, token: Token):
        super().__init__()
        self.token = token


class _Roles(PostLex):
    """Gives `if` and `as` the terminals that the grammar tells apart, and keeps the limits."""

    always_accept = ("IF", "AS")

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        place = _Place()
        for token in stream:
            _check_limits(token, len(place.brackets))
            yield place.with_role(token)
            place.pass_by(token)


def _check_limits(token: Token, depth: int) -> None:
    too_long = token.type == "NAME" and len(token) > MAX_NAME
    too_deep = token.type in OPENING and depth >= MAX_NESTING
    if too_long or too_deep:
        raise RefusedTokenError(token)


class _Place:
    """What lies around and before a token."""

    def __init__(self) -> None:
        self.brackets: list[str] = []  # those open, by the terminal that opened them; PATH for `as layers.{`
        self.loop: int | None = None  # in the header of a `for` or `experts`: how many brackets are open
        self.ends_statement = True  # whether what comes next on this line may be a statement
        self.previous: Token | None = None

    def with_role(self, token: Token) -> Token:
        """The token, as COND_IF or LOOP_AS where it is one."""
        if token.type == "AS" and self.loop == len(self.brackets):
            return Token.new_borrow_pos("LOOP_AS", token.value, token)
        if token.type == "IF" and not self._opens_statement(token):
            return Token.new_borrow_pos("COND_IF", token.value, token)
        return token

    def _opens_statement(self, token: Token) -> bool:
        if self.brackets and self.brackets[-1] != "LBRACE":
            return False
        return self.ends_statement or (self.previous is not None and self.previous.end_line != token.line)

    def pass_by(self, token: Token) -> None:
        """Go on after a token."""
        closed = ""
        if token.type in OPENING:
            self.brackets.append("PATH" if opens_path_index(self.previous, token) else token.type)
        elif token.type in CLOSING and self.brackets:
            closed = self.brackets.pop()
        if token.type in ("FOR", "EXPERTS"):
            in_list = bool(self.brackets) and self.brackets[-1] == "LSQB"
            self.loop = None if in_list and token.type == "FOR" else len(self.brackets)
        elif token.type == "LBRACE" and self.brackets[-1] == "LBRACE":
            self.loop = None
        self.ends_statement = token.type in ("LBRACE", "ELSE") or closed == "LBRACE"
        self.previous = token


def opens_path_index(previous: Token | None, token: Token) -> bool:
    """Whether a token is the brace around an expression in a path, as in `as layers.{i}`."""
    return (
        token.type == "LBRACE" and previous is not None and previous.type in ("DOT", "AS", "LOOP_AS", "ARROW")
    )


@cache
def parser() -> Lark:
    """The parser of grammar/archc.lark."""
    folder = resources.cache_dir()
    text = (resources.resource_dir("grammar") / "archc.lark").read_text()
    return Lark(
        text,
        parser="lalr",
        start="spec",
        postlex=_Roles(),
        propagate_positions=True,
        maybe_placeholders=True,
        cache=str(folder / "grammar.bin") if folder else False,
    )


def tokens(text: str) -> list[Token]:
    """The tokens of a text, up to its end or its first syntax error; the one at fault may be among them."""
    found: list[Token] = []
    try:
        for token in parser().parse_interactive(text).iter_parse():
            found.append(token)
    except (UnexpectedInput, RefusedTokenError):
        pass
    return found


def open_brackets(found: list[Token]) -> list[Token]:
    """The brackets that tokens leave open, outermost first."""
    brackets: list[Token] = []
    for token in found:
        if token.type in OPENING:
            brackets.append(token)
        elif token.type in CLOSING and brackets:
            brackets.pop()
    return brackets
