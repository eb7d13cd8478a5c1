"""What the templates of native code may see: functions in C++, for a CPU, and calls of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.codegen.class_plan import Argument
from archc.codegen.literals import tuple_text
from archc.codegen.spans import is_span, with_spans

# What no variable may be called: words of C++, and names of the templates.
_WORDS = (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl "
    "const constexpr const_cast continue decltype default delete do double dynamic_cast else enum "
    "explicit export extern false float for friend goto if inline int long mutable namespace new "
    "noexcept not not_eq nullptr operator or or_eq private protected public register "
    "reinterpret_cast return short signed sizeof static static_assert static_cast struct switch "
    "template this thread_local throw true try typedef typeid typename union unsigned using "
    "virtual void volatile wchar_t while xor xor_eq T column row rows "
)

FEW_ROWS = 4  # of which a product with weights reads these in one stream
MOST_ROWS = 64  # of which a product is native: PyTorch's are as fast for more


def cpp_name(name: str) -> str:
    """A name in C++, near to one in Python."""
    return f"{name}_" if name in _WORDS.split() else name


@dataclass(frozen=True)
class NativeFunction:
    """A function of C++, once for each dtype T, that a team of threads runs: contiguous tensors, then sizes.

    team: how many threads it is worth where there are `threads`, in C++
    """

    name: str
    pointers: tuple[str, ...]
    sizes: tuple[str, ...]
    team: str = "threads"

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*self.pointers, *(f"int64_t {name}" for name in self.sizes))

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(parameter.split()[-1] for parameter in self.parameters)

    @property
    def signature(self) -> str:
        return f"void {self.name}_rows({', '.join(['Team& team', *self.parameters])}) {{"

    def exported(self, suffix: str, dtype: str) -> str:
        """The signature of what is called from outside, for one dtype."""
        parameters = ", ".join([*self.parameters, "int64_t threads"]).replace("T*", f"{dtype}*")
        return f'extern "C" void {self.name}_{suffix}({parameters}) {{'


LINEAR = NativeFunction(
    "linear",
    ("const T* x", "const T* weight", "const T* bias", "T* y"),
    ("rows", "outputs", "inputs"),
)
GROUPED_LINEAR = NativeFunction(
    "grouped_linear",
    (
        "const T* x",
        "const T* weight",
        "const int64_t* ends",
        "const T* offset",
        "const int64_t* tokens",
        "T* y",
    ),
    ("count", "outputs", "inputs", "most"),
)


@dataclass(frozen=True)
class NativeCall:
    """A function of a fused op, what `native.takes` is asked about, and what the function is given.

    width: that of a row of the first operand that is asked about
    """

    function: NativeFunction
    asked: tuple[str, ...]
    width: int
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class NativeRows:
    """An op whose rows, or columns of rows, are computed one after another.

    lines: statements for one of them
    """

    call: NativeCall
    lines: tuple[str, ...]
    template: str


@dataclass(frozen=True)
class NativeRope:
    """A rotation of heads: the plan of its kernel has all that the template needs."""

    call: NativeCall
    template: str = "rope"


@dataclass(frozen=True)
class NativeAttention:
    """Attention of one token, which sees all that is kept: the last tokens of a window, or all for None."""

    function: NativeFunction
    window: int | None


@dataclass(frozen=True)
class NativeInput:
    """An operand of a layer, by its place among all; a table is of float32, others of the model's dtype."""

    place: int
    is_table: bool


@dataclass(frozen=True)
class NativeResult:
    """What a layer hands on: one of its weights, or what it makes, `width` numbers for a token.

    shape: behind [B, T], in Python
    """

    weight: str
    shape: str
    width: int


@dataclass(frozen=True)
class NativeLayer:
    """A layer for one token of each sequence: what it takes, in this order, and its statements in C++.

    operands: what its class calls those of the loop
    weights:  names of parameters of its class; handed_on: such that it only hands on
    space:    how many numbers it makes on the way, for a token
    """

    function: NativeFunction
    doc: str
    operands: tuple[str, ...]
    inputs: tuple[NativeInput, ...]
    weights: tuple[str, ...]
    slots: tuple[str, ...]
    results: tuple[NativeResult, ...]
    handed_on: tuple[str, ...]
    lines: tuple[str, ...]
    space: int

    @property
    def held(self) -> tuple[str, ...]:
        """What native code is told the addresses of."""
        return (*self.weights, *self.slots, *self.handed_on)

    def reads(self, kind: int) -> str:
        """The same in Python, for the kind of that number."""
        texts = [str(kind), _names(self.weights), _names(self.slots)]
        texts += [f"handed_on={_names(self.handed_on)}"] if self.handed_on else []
        return f"native.OfToken({', '.join(texts)})"

    def place(self, weight: str) -> int:
        """Where a weight stands in `held`."""
        if weight in self.weights:
            return self.weights.index(weight)
        return len(self.weights) + len(self.slots) + self.handed_on.index(weight)


def _names(names: Sequence[str]) -> str:
    return tuple_text([f'"{name}"' for name in names])


@dataclass(frozen=True)
class NativeStep:
    """One kind of a loop's layers in C++: the call of its function, and how weights become operands.

    held: how many addresses it reads
    """

    call: str
    handed_on: tuple[str, ...]
    held: int


@dataclass(frozen=True)
class NativeLayers:
    """The layers of a loop for one token of each sequence, one behind the other.

    places:    of the loop's operands that layers read; arguments: these, in Python
    first:     the argument that says how many rows there are
    others:    further ones of the model's dtype; tables: those of float32
    made:      results that are made: their names, shapes behind [B, T], and widths
    carried:   those of them that the next layer reads
    results:   all, as Python returns them
    space:     how many numbers of a token threads need memory for
    """

    name: str
    function: NativeFunction
    places: tuple[int, ...]
    arguments: tuple[Argument, ...]
    first: str
    others: tuple[str, ...]
    tables: tuple[str, ...]
    made: tuple[tuple[str, str, int], ...]
    carried: tuple[str, ...]
    results: tuple[str, ...]
    steps: tuple[NativeStep, ...]
    space: int

    def call(self, layers: str, operands: Sequence[str]) -> str:
        """The call for a list of layers, by whoever calls the loop's operands so."""
        span = next(text for text in with_spans(operands) if is_span(text))
        given = [operands[place] for place in self.places]
        return f"{self.name}({', '.join([layers, *given, span, 'cache'])})"

    @property
    def result_type(self) -> str:
        count = len(self.results)
        return "Tensor" if count == 1 else f"tuple[{', '.join(['Tensor'] * count)}]"
