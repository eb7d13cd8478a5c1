"""Compile-time values: what an expression of a spec may stand for besides numbers, strings and lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from archc.errors import Source
from archc.frontend import syntax
from archc.frontend.limits import MAX_LIST, MAX_LOOP_CHAIN, MAX_LOOP_STEPS
from archc.ir.graph import Graph
from archc.ir.node import Value
from archc.ir.op import Op
from archc.ir.records import Record, Symbol
from archc.ir.types import TensorType

_SHOWN = 8  # a list of so many numbers is shown itself in messages


class ArithmeticMistake(Exception):
    """A computation with no result; the text says why."""


class Poison:
    """The value of something that was reported already; whatever meets it stays silent."""


POISON = Poison()


@dataclass(frozen=True)
class Handle:
    """A tensor: a value of some graph."""

    graph: Graph
    value: Value

    @property
    def type(self) -> TensorType:
        return self.graph.type(self.value)


@dataclass(frozen=True)
class LoopValue:
    """A compile-time value that depends on loop variables.

    `value` is the one of the iteration being traced, `at` computes it for any.  Layers stay rolled because
    nothing looks at `value` but `Lowerer.known`, which notes down what was seen.
    """

    value: Any
    at: Callable[[Mapping[str, int]], Any]
    variables: frozenset[str]
    steps: int = 1  # how many computations `at` makes
    depth: int = 1  # how many of these one after another


def peek(value: Any) -> Any:
    """What a value is in the iteration that is traced, without noting that it was looked at."""
    return value.value if isinstance(value, LoopValue) else value


def lift(function: Callable[..., Any], *arguments: Any) -> Any:
    """Apply a function of plain values to values that may depend on loop variables.

    Raises what the function does, and `ArithmeticMistake` for a computation that grows without bounds.
    """
    loops = [argument for argument in arguments if isinstance(argument, LoopValue)]
    if not loops:
        return function(*arguments)
    steps, depth = 1 + sum(loop.steps for loop in loops), 1 + max(loop.depth for loop in loops)
    if depth > MAX_LOOP_CHAIN:
        raise ArithmeticMistake(f"it follows a loop variable in more than {MAX_LOOP_CHAIN} steps")
    if steps > MAX_LOOP_STEPS:
        raise ArithmeticMistake(f"it follows a loop variable in more than {MAX_LOOP_STEPS:,} steps")

    def at(indices: Mapping[str, int]) -> Any:
        return function(*(a.at(indices) if isinstance(a, LoopValue) else a for a in arguments))

    now = function(*map(peek, arguments))
    return LoopValue(now, at, frozenset().union(*(loop.variables for loop in loops)), steps, depth)


class List(tuple[Any, ...]):
    """A list.  `size` counts its items with those of lists in it."""

    size: int

    @staticmethod
    def of(*items: Any) -> List:
        """Raises `ArithmeticMistake` for one that is too large."""
        made = List(items)
        made.size = sum(item.size if isinstance(item, List) else 1 for item in items)
        if made.size > MAX_LIST:
            raise ArithmeticMistake(f"a list may hold at most {MAX_LIST} items")
        return made

    def tensors(self) -> Iterator[Handle]:
        """The tensors among the items, those of lists in it included."""
        for item in self:
            if isinstance(item, Handle):
                yield item
            elif isinstance(item, List):
                yield from item.tensors()


@dataclass(frozen=True)
class Table:
    """A list of numbers, or of such lists, that stands for a tensor; `name` is what the spec calls it.

    `variable`: of a loop whose iterations have one each, `values` holds those of all; `first` is the first.
    """

    values: tuple[Any, ...]
    name: str
    variable: str = ""
    first: int = 0


class Quotient(float):
    """The result of a division of whole numbers that leaves a rest; remembers it for the message."""

    left: int
    right: int
    expr: syntax.Expr | None

    @staticmethod
    def of(left: int, right: int) -> Quotient:
        quotient = Quotient(left / right)
        quotient.left, quotient.right, quotient.expr = int(left), int(right), None
        return quotient


@dataclass
class Env:
    """Names in scope; looks outwards."""

    outer: Env | None = None
    names: dict[str, Any] = field(default_factory=dict)
    is_block: bool = False  # the outermost scope of a block's own names

    def outwards(self) -> Iterator[Env]:
        """This scope and those around it, the innermost first."""
        env: Env | None = self
        while env is not None:
            yield env
            env = env.outer

    def lookup(self, name: str) -> Any:
        """The value of a name; raises `KeyError`."""
        for env in self.outwards():
            if name in env.names:
                return env.names[name]
        raise KeyError(name)

    def get(self, name: str, default: Any) -> Any:
        """The value of a name, or `default` for one that is not in scope."""
        try:
            return self.lookup(name)
        except KeyError:
            return default

    def hidden(self, name: str) -> list[Any]:
        """What a name stood for further out, before it was given its value here."""
        return [env.names[name] for env in self.outwards() if name in env.names][1:]

    def local(self) -> set[str]:
        """The names of the block that this scope is in."""
        if self.is_block or self.outer is None:
            return set(self.names)
        return set(self.names) | self.outer.local()

    def known(self) -> set[str]:
        """Every name in scope."""
        return {name for env in self.outwards() for name in env.names}

    def defined(self) -> set[str]:
        """Every name in scope but those of the language itself, and of the blocks that come with it."""
        if self.outer is None:
            return set()
        return {name for name, value in self.names.items() if not _is_standard(value)} | self.outer.defined()


@dataclass(frozen=True)
class BlockValue:
    """A block and the names it sees."""

    block: syntax.Block
    env: Env
    source: Source


def _is_standard(value: Any) -> bool:
    return isinstance(value, BlockValue) and value.source.standard


@dataclass(frozen=True)
class Builtin:
    """A compile-time function of the language; a variadic one takes any number of arguments from one."""

    name: str
    function: Callable[..., Any]
    parameters: tuple[str, ...]
    doc: str
    variadic: bool = False


def counted(count: int, noun: str) -> str:
    """`1 name`, `2 names`."""
    return f"{count} {noun}{'s' if count != 1 else ''}"


def describe(value: Any) -> str:
    """A value as a message names it."""
    if isinstance(value, LoopValue):
        return describe(value.value)
    if isinstance(value, Handle):
        return f"a tensor {value.type}"
    if isinstance(value, BlockValue):
        return f"block `{value.block.name}`"
    if isinstance(value, Op):
        return f"op `{value.name}`"
    if isinstance(value, Builtin):
        return f"function `{value.name}`"
    if isinstance(value, type):
        return f"`{value.kind}`" if issubclass(value, Record) else "a type"
    return _describe_plain(value)


def _describe_plain(value: Any) -> str:
    if isinstance(value, Symbol | Record):
        return f"`{value}`"
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if value is None:
        return "`none`"
    if isinstance(value, str):
        return f'the string "{value[:40]}"'
    if isinstance(value, tuple | range):
        if len(value) <= _SHOWN and all(isinstance(item, int | float) for item in value):
            return f"[{', '.join(map(describe, value))}]"
        return f"a list of {len(value)}"
    if isinstance(value, float):
        return f"{float(value):.6g}"
    return str(value)
