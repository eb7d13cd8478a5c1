"""The syntax tree: what was written, and where.  It knows nothing of what names mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from archc.errors import Span

# Words that expressions and statements are made of: a name like them could be given, but never read.
RESERVED_WORDS = frozenset(
    {"and", "as", "else", "false", "for", "if", "in", "none", "not", "of", "or", "return", "true"}
)
UNNEEDED = "_"  # takes a value that nothing needs: it stands for nothing itself


@dataclass(frozen=True)
class Node:
    span: Span


@dataclass(frozen=True)
class Literal(Node):
    """A number, string, `true`, `false` or `none`."""

    value: int | float | str | bool | None


@dataclass(frozen=True)
class Name(Node):
    name: str


@dataclass(frozen=True)
class ListOf(Node):
    items: tuple[Expr, ...]


@dataclass(frozen=True)
class Each(Node):
    """`[item for variable in items]`: a list with a value for each item of a list or range."""

    item: Expr
    variable: str
    items: Expr


@dataclass(frozen=True)
class Unary(Node):
    """`-x` or `not x`."""

    operator: str
    operand: Expr


@dataclass(frozen=True)
class Binary(Node):
    """Arithmetic, a comparison, `and`, `or`, `in`, `not in` or a range `a..b`."""

    operator: str
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Conditional(Node):
    """`chosen if condition else other`; without an `else` the other is `none`."""

    condition: Expr
    chosen: Expr
    other: Expr | None


@dataclass(frozen=True)
class Path(Node):
    """A parameter path; a segment is literal text or an expression in braces."""

    segments: tuple[str | Expr, ...]


@dataclass(frozen=True)
class Root(Node):
    """Where a larger model's checkpoint holds a model: below a path, or only what is below `replaced`."""

    path: Path
    replaced: str | None


@dataclass(frozen=True)
class Argument(Node):
    name: str | None
    value: Expr


@dataclass(frozen=True)
class Call(Node):
    callee: Expr
    arguments: tuple[Argument, ...]
    path: Path | None


@dataclass(frozen=True)
class Index(Node):
    target: Expr
    index: Expr


@dataclass(frozen=True)
class Attribute(Node):
    target: Expr
    name: str


@dataclass(frozen=True)
class Experts(Node):
    """Each token through the experts that it has chosen, of `count`.

    What the body returns is summed, or stays `apart`, a value for each choice.
    """

    variable: str
    chosen: Expr
    count: Expr
    path: Path | None
    apart: bool
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Scan(Node):
    """A step for one token of `over` after the other; it sees the states that the step before left."""

    over: Name
    states: tuple[Param, ...]
    body: tuple[Statement, ...]


Expr: TypeAlias = (
    Literal | Name | ListOf | Each | Unary | Binary | Conditional | Call | Index | Attribute | Experts | Scan
)  # fmt: skip


@dataclass(frozen=True)
class Shape(Node):
    """`float[B, T, d]`; the dtype may be left out."""

    dtype: str | None
    dims: tuple[Expr, ...]


@dataclass(frozen=True)
class Target(Node):
    name: str
    shape: Shape | None


@dataclass(frozen=True)
class Assign(Node):
    targets: tuple[Target, ...]
    values: tuple[Expr, ...]


@dataclass(frozen=True)
class Result(Node):
    name: str | None
    value: Expr


@dataclass(frozen=True)
class Return(Node):
    results: tuple[Result, ...]


@dataclass(frozen=True)
class If(Node):
    condition: Expr
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]


@dataclass(frozen=True)
class For(Node):
    variable: str
    items: Expr
    path: Path | None
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Expect(Node):
    """`expect fuse(rule)`: the build fails where the rule does not fire."""

    rule: str


@dataclass(frozen=True)
class Leave(Node):
    """`loss name = value` or `note name = value`: what is left to training."""

    kind: str
    name: str
    value: Expr


Statement: TypeAlias = Assign | Return | If | For | Expect | Leave


@dataclass(frozen=True)
class Param(Node):
    name: str
    shape: Shape | None
    default: Expr | None


@dataclass(frozen=True)
class Block(Node):
    name: str
    params: tuple[Param, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Define(Node):
    name: str
    value: Expr


@dataclass(frozen=True)
class Ignore(Node):
    """Checkpoint tensors that the model has no use for, by pattern (`*` matches anything)."""

    pattern: Expr


@dataclass(frozen=True)
class Arch(Node):
    name: str
    params: tuple[Param, ...]
    members: tuple[Block | Define | Expect | Ignore, ...]  # `forward` is the block of that name


@dataclass(frozen=True)
class Model(Node):
    name: str
    arch: str
    arch_span: Span
    arguments: tuple[Argument, ...]
    root: Root | None = None


@dataclass(frozen=True)
class Fuse(Node):
    name: str
    operands: tuple[str, ...]
    attributes: tuple[str, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Import(Node):
    name: str


Definition: TypeAlias = Arch | Block | Model | Fuse | Define
Item: TypeAlias = Import | Definition


@dataclass(frozen=True)
class Spec(Node):
    items: tuple[Item, ...] = field(default=())
