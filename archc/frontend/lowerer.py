"""The state that all parts of lowering share: the graph being built, the path, mistakes, traced loops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from archc.errors import Mistake, Note, Reporter, Source, Span
from archc.frontend import syntax
from archc.frontend.limits import MAX_STEPS
from archc.frontend.values import POISON, Env, Handle, LoopValue
from archc.ir.graph import Graph
from archc.ir.node import Scope, Value
from archc.ir.op import Op
from archc.ir.paths import Path
from archc.ir.types import Dim, TensorType, taken_type

if TYPE_CHECKING:
    from archc.frontend.tied_experts import OfExperts

# Standard specs that hold blocks and nothing else; every spec sees the first.
_PRELUDE = "specs/prelude.arch"
_LIBRARIES = (_PRELUDE, "specs/std.arch")


class ExhaustedError(Exception):
    """A spec that takes too many steps to evaluate."""


class Budget:
    """Steps that the models of a spec may take, all together."""

    def __init__(self, steps: int = MAX_STEPS):
        self.left = steps

    @property
    def is_spent(self) -> bool:
        return self.left < 0

    def spend(self, steps: int) -> None:
        """Raises `ExhaustedError` when there are none left."""
        self.left -= steps
        if self.is_spent:
            raise ExhaustedError


@dataclass
class Observation:
    """A value that tracing an iteration has looked at: another iteration is the same if it sees the same."""

    source: LoopValue
    value: Any

    def holds(self, indices: Mapping[str, int]) -> bool:
        return bool(self.source.at(indices) == self.value)


@dataclass
class Region:
    """What sets the frame of an `experts` body apart: which expert it is, and how its inputs are taken.

    `at_choice` maps values [B, T, choices, ...] of the outer frame to inputs that stand for one of each here.
    """

    variable: str
    count: int
    tokens: tuple[Dim, Dim]
    choices: Dim
    at_choice: dict[Value, Value] = field(default_factory=dict)

    def kind(self, type_: TensorType) -> str:
        """How the body takes a value from outside: by token, or whole."""
        return "token" if type_.shape[:2] == self.tokens else "whole"


@dataclass
class Frame:
    """A graph under construction; a loop body's frame lies inside of its loop's.

    captured:  the inputs that stand here for values of the outer frame, by these
    unindexed: weights that every iteration would share
    """

    graph: Graph
    outer: Frame | None = None
    variable: str | None = None
    captured: dict[Value, Value] = field(default_factory=dict)
    observed: list[Observation] = field(default_factory=list)
    unindexed: list[tuple[Path, Span]] = field(default_factory=list)
    region: Region | None = None  # of the body of `experts`
    is_step: bool = False  # of the body of a `scan`
    training: bool = False  # of a `loss` or a `note`
    lacks_notes: bool = False  # of a `loss` that reads what no layer of this model notes

    def outwards(self) -> Iterator[Frame]:
        """This frame and those around it, the innermost first."""
        frame: Frame | None = self
        while frame is not None:
            yield frame
            frame = frame.outer


@dataclass(frozen=True)
class Tie:
    """Weights under `prefix` are those declared under `target`."""

    prefix: Path
    target: Path


class Lowerer(ABC):
    """The state of lowering one model.  Its parts are mixed together in lower.py.

    `home` is the spec that is compiled, `line` the model's line in it.
    """

    def __init__(self, reporter: Reporter, graph: Graph, home: Source, line: Span, budget: Budget):
        self.reporter = reporter
        self.home = home
        self.line = line
        self.frame = Frame(graph)
        self.prefix: Path = ()
        self.moved: tuple[str, Path] | None = None  # a first segment of paths, and what checkpoints have
        self.is_named = False  # whether the call of the block that is being run said `as`
        self.scope: Scope | None = None
        self.calls: list[tuple[syntax.Block, Span]] = []  # blocks being run, and where they were called
        self.steps: dict[str, Sequence[int]] = {}  # what each loop variable in scope runs over
        self.now: dict[str, int] = {}  # where each of those loops is
        self.weights: dict[Path, Handle] = {}
        self.lost: set[Path] = set()  # of calls with mistakes, whose weights are not there
        self.of_experts: dict[Path, OfExperts] = {}  # those of them in the bodies of `experts`
        # Through which calls each weight was reached, by its path and its node's number.
        self.weight_calls: dict[tuple[Path, int], list[Note]] = {}
        self.tie: Tie | None = None
        self.tied_names: dict[str, str] = {}  # what tied weights would be called -> what they are
        self.nodes = 0
        self.budget = budget

    @abstractmethod
    def evaluate(self, expr: syntax.Expr, env: Env) -> Any:
        """The value of an expression; `POISON` after a mistake."""

    @abstractmethod
    def call(self, call: syntax.Call, env: Env) -> Any:
        """The value of a call, a tuple where it has several."""

    @abstractmethod
    def apply(
        self, op: Op, operands: list[Any], attributes: dict[str, Any], span: Span, path: Path | None = None
    ) -> list[Any]:
        """Add an op to the graph: the tensors it makes, all `POISON` after a mistake.

        path says where its weights lie, None where the call does not.
        """

    @abstractmethod
    def check_annotation(self, name: str, shape: syntax.Shape, value: Any, env: Env) -> None:
        """Compare a value with its shape annotation."""

    @abstractmethod
    def run(self, body: tuple[syntax.Statement, ...], env: Env) -> tuple[syntax.Result, ...] | None:
        """Run statements; the results of the `return` among them, unevaluated values in `env`."""

    @abstractmethod
    def loop(self, statement: syntax.For, env: Env) -> None:
        """Run a `for`."""

    @abstractmethod
    def leave(self, statement: syntax.Leave, env: Env) -> None:
        """Run a `loss` or a `note`."""

    @abstractmethod
    def noted(self, call: syntax.Call, argument: syntax.Argument) -> Any:
        """The value of `noted(name)`."""

    @abstractmethod
    def experts(self, expr: syntax.Experts, env: Env) -> Any:
        """The value of an `experts` region."""

    @abstractmethod
    def scan(self, expr: syntax.Scan, env: Env) -> Any:
        """The value of a `scan`."""

    def report(self, mistake: Mistake) -> Any:
        """Report a mistake, where it is the user's, and give the value to go on with."""
        at = self._led_to(mistake.span, self._is_foreign) or self.line
        if at is not mistake.span:
            mistake = mistake.moved(at, Note("it came up here", mistake.span))
        self.reporter.report(mistake)
        return POISON

    def place(self, span: Span) -> Span:
        """Where a node was written: for a place in a library, the call that led into it."""
        return self._led_to(span, _is_library) or span

    def _led_to(self, span: Span, skipped: Callable[[Span], bool]) -> Span | None:
        """The innermost of a place and the calls around it that is not skipped."""
        places = (span, *(at for _, at in reversed(self.calls)))
        return next((at for at in places if not skipped(at)), None)

    def _is_foreign(self, span: Span) -> bool:
        """Whether a place is in a standard spec that the compiled one uses: its user cannot mend it there."""
        if span.source.name == self.home.name or not span.source.standard:
            return False
        return not self.home.standard or _is_library(span)

    def call_notes(self, span: Span) -> list[Note]:
        """Through which calls a place was reached, innermost first."""
        calls = [(block.name, at) for block, at in reversed(self.calls) if at != span]
        return [Note(f"in block `{name}`, called here", at) for name, at in calls[:3]]

    def spend(self, steps: int = 1) -> None:
        """Count steps of evaluation; raises `ExhaustedError` when there are too many."""
        self.budget.spend(steps)

    def known(self, value: Any) -> Any:
        """The plain value of one that may depend on loop variables, noting that it was looked at.

        The innermost loop that it depends on notes it; that loop tells those around it, once it is traced.
        """
        if not isinstance(value, LoopValue):
            return value
        followed = (frame for frame in self.frame.outwards() if frame.variable in value.variables)
        if (frame := next(followed, None)) is not None:
            frame.observed.append(Observation(value, value.value))
        return value.value

    def resolve(self, handle: Handle, frame: Frame | None = None) -> Value:
        """The value that stands for a tensor in a frame's graph, capturing it from outside where needed."""
        frame = frame or self.frame
        if handle.graph is frame.graph:
            return handle.value
        assert frame.outer is not None, "a tensor of no enclosing graph"
        outer = self.resolve(handle, frame.outer)
        if outer not in frame.captured:
            source = frame.outer.graph
            node = source.node(outer)
            name = source.name_of(outer) or str(next((s for s in reversed(node.path) if s != "weight"), ""))
            type_ = source.type(outer)
            if frame.region is not None:
                type_ = taken_type(type_, frame.region.kind(type_))
            frame.captured[outer] = frame.graph.add_input(name, type_, node.span)
        return frame.captured[outer]

    @property
    def region(self) -> Region | None:
        """The `experts` around what is being traced."""
        return next((frame.region for frame in self.frame.outwards() if frame.region is not None), None)

    @property
    def in_step(self) -> bool:
        """Whether the step of a `scan` is being traced."""
        return any(frame.is_step for frame in self.frame.outwards())

    @contextmanager
    def within(self, path: Path, scope: Scope | None = None, named: bool = False) -> Iterator[None]:
        """Put names under a path, and nodes into a scope.

        `named`: an op without a path of its own has its weights right there.
        """
        saved = self.prefix, self.scope, self.is_named
        self.prefix, self.scope, self.is_named = self.prefix + path, scope or self.scope, named
        try:
            yield
        finally:
            self.prefix, self.scope, self.is_named = saved


def is_prelude(source: Source) -> bool:
    """Whether a spec is the one whose blocks all others see."""
    return source.standard and source.name == _PRELUDE


def _is_library(span: Span) -> bool:
    return span.source.standard and span.source.name in _LIBRARIES
