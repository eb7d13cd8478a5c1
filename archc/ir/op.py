"""How an op is declared, once.

The declaration is a decorated reference function: its positional parameters are the op's operands, its
keyword-only parameters the op's attributes, and its body the op's meaning in PyTorch.  The interpreter calls
that function, generated references contain its text, and tests compare everything else with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any, TypeAlias, TypeVar, get_args

from archc.ir.attributes import Kind, kind_of
from archc.ir.expr import Expr, Formula, leaf
from archc.ir.inits import Init, Normal
from archc.ir.types import Dim, DType, TensorType

REQUIRED: Any = object()


class Trait(Enum):
    """What passes may assume of an op."""

    __hash__ = object.__hash__  # that of its name takes several times as long, and is asked for all the time

    ELEMENTWISE = auto()  # each output element depends on the operands' elements at the same place
    COMMUTATIVE = auto()  # the two operands may change places
    PER_TOKEN = auto()  # tokens do not look at each other
    SHAPE = auto()  # moves or repeats elements, no arithmetic
    VIEW = auto()  # a new shape for the same elements, and no copy of them
    LINEAR = auto()  # linear in its first operand, by a weight
    MATRIX = auto()  # its FLOPs are those of matrix products
    NORM = auto()  # normalises its first operand over the last dim
    PAIRWISE = auto()  # a value for each query and key: made where attention reads it, best never as a whole
    EFFECT = auto()  # must stay where it is: never folded, merged or removed


@dataclass(frozen=True)
class Attr:
    """An attribute or option: what it may hold, and its default."""

    kind: Kind
    default: Any = REQUIRED


@dataclass(frozen=True)
class Operand:
    """A tensor that an op takes, or may go without."""

    name: str
    optional: bool = False


@dataclass(frozen=True)
class Weight:
    """A parameter tensor that an op brings with it.

    `shape` computes it from the call: `call.x` is an operand's type, `call.eps` an option or attribute.
    `when` names the option that switches it on; None means always.  `wide` names one that keeps it in
    float32, whatever the model is run in; one that is `whole` holds whole numbers and is not trained.  Its
    path in the checkpoint is the call's path and `name`, or the call's path alone where `name` is empty.
    """

    name: str
    shape: Callable[[Any], tuple[Dim, ...]]
    init: Init | Callable[[Any], Init] = field(default_factory=Normal)
    when: str | None = None
    wide: str | None = None
    whole: bool = False
    operand: str = ""

    @property
    def operand_name(self) -> str:
        return self.operand or self.name

    def start(self, call: Any) -> Init:
        """How the weight of a call starts out."""
        return self.init(call) if callable(self.init) else self.init

    def type(self, call: Any) -> TensorType:
        """The shape and the dtype of a call's weight."""
        if self.whole:
            return TensorType(self.shape(call), DType.I64)
        wide = self.wide is not None and getattr(call, self.wide)
        return TensorType(self.shape(call), DType.F32 if wide else DType.FLOAT)


Infer: TypeAlias = Callable[[Any], TensorType | tuple[TensorType, ...]]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False, kw_only=True)
class Declaration:
    """What is said of an op beside its reference function."""

    infer: Infer
    weights: Sequence[Weight] = ()
    options: Mapping[str, Attr] = field(default_factory=dict)  # arguments that only shape its weights
    traits: Collection[Trait] = ()
    flops: Callable[[Any], int] = lambda _call: 0
    reads: Callable[[Any], Mapping[str, int]] = lambda _call: {}  # how much of operands not read whole
    # Operands, or "result", that PyTorch's gradient reads; where there are none, `derivative` says it.
    saves: Sequence[str] = ()
    past: Sequence[str] = ()  # operands whose values of earlier tokens the op reads
    # How many tokens back from its positions it reads, None for all, by its attributes.
    reach: Callable[[Mapping[str, Any]], int | None] = lambda _: None
    # The shape of what the op carries from token to token, for one sequence; its operand `state` holds it.
    carries: Callable[[Any], tuple[int, ...]] | None = None
    models: Sequence[str] = ()  # operands of which nothing but the dtype is read
    widths: Sequence[str] = ()  # operands of which nothing but the dtype and the last dim is read
    # Whether the values of operands do not matter, by its attributes.
    fixed: Callable[[Mapping[str, Any]], bool] = lambda _: False
    triton: str | None = None  # the op on float32 registers, as a Triton expression
    derivative: Callable[..., tuple[Formula, ...]] | None = None  # (gradient, *operands) -> operand gradients
    scalar: Callable[..., Any] | None = None  # the op on numbers known when the spec is compiled
    internal: bool = False  # the compiler's own: the language has no name for it
    module: str = ""  # the module of a package that has a function of this name for it


@dataclass(frozen=True, eq=False, kw_only=True)
class Op(Declaration):
    """A declared op.  See the module's docstring; `declare` makes them."""

    name: str
    operands: tuple[Operand, ...]
    attributes: Mapping[str, Attr]
    reference: Callable[..., Any]
    doc: str
    variadic: bool = False

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    @property
    def data_operands(self) -> tuple[Operand, ...]:
        """The operands that a call in the language gives; weights and states come by themselves."""
        brought = {weight.operand_name for weight in self.weights}
        brought |= {"state"} if self.carries else set()
        return tuple(operand for operand in self.operands if operand.name not in brought)

    def has(self, trait: Trait) -> bool:
        return trait in self.traits

    @property
    def is_pointwise(self) -> bool:
        """Whether kernels can compute it element by element, and its gradient."""
        return self.has(Trait.ELEMENTWISE) and bool(self.triton) and self.derivative is not None

    def gradients(self, gradient: Expr, operands: Sequence[Formula]) -> Iterator[tuple[int, Formula]]:
        """The gradients that operands have by the derivative, each with its operand's place."""
        assert self.derivative is not None, self.name
        given = [each if isinstance(each, Expr) else leaf(repr(float(each))) for each in operands]
        return (each for each in enumerate(self.derivative(gradient, *given)) if each[1] != 0.0)

    def call(self, types: Sequence[TensorType | None], attributes: Mapping[str, Any]) -> SimpleNamespace:
        """Operand types and attributes by name, as `infer`, `flops`, `reads` and `Weight.shape` take them."""
        if self.variadic:
            return SimpleNamespace(xs=tuple(types), **attributes)
        named = {operand.name: type_ for operand, type_ in zip(self.operands, types, strict=True)}
        return SimpleNamespace(**named, **attributes)

    def infer_types(
        self, types: Sequence[TensorType | None], attributes: Mapping[str, Any]
    ) -> tuple[TensorType, ...]:
        """The types of the outputs; raises `TypeMistake`."""
        result = self.infer(self.call(types, attributes))
        return result if isinstance(result, tuple) else (result,)


OPS: dict[str, Op] = {}


class declare(Declaration):
    """Declares the decorated reference function as an op and enters it in `OPS`."""

    def __call__(self, function: Function) -> Function:
        operands, variadic, attributes = _signature(function)
        OPS[function.__name__] = Op(
            name=function.__name__,
            operands=operands,
            variadic=variadic,
            attributes=attributes,
            reference=function,
            doc=inspect.cleandoc(function.__doc__ or ""),
            **vars(self),
        )
        return function


def option(annotation: Any, default: Any = REQUIRED) -> Attr:
    """An option of an op, by what an attribute of its kind is annotated with."""
    return Attr(kind_of(annotation), default)


def _signature(function: Callable[..., Any]) -> tuple[tuple[Operand, ...], bool, dict[str, Attr]]:
    operands: list[Operand] = []
    attributes: dict[str, Attr] = {}
    variadic = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            variadic = True
        elif parameter.kind is parameter.KEYWORD_ONLY:
            default = REQUIRED if parameter.default is parameter.empty else parameter.default
            attributes[parameter.name] = option(parameter.annotation, default)
        else:
            # Before a weight, which comes last, an operand cannot have a default.
            may_be_none = parameter.default is None or type(None) in get_args(parameter.annotation)
            operands.append(Operand(parameter.name, may_be_none))
    return tuple(operands), variadic, attributes


def choice_words() -> set[str]:
    """Every bare word that some attribute accepts."""
    words: set[str] = set()
    for op in OPS.values():
        for attr in (*op.attributes.values(), *op.options.values()):
            words.update(attr.kind.choices)
    return words
