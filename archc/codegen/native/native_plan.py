"""What the templates of native code may see: functions in C++ for a CPU, and calls of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.codegen.code import Argument
from archc.codegen.literals import tuple_text
from archc.codegen.modules.spans import is_span, with_spans

# Names that no variable may have: words of C++, and names that the templates use.
_WORDS = (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl "
    "const constexpr const_cast continue decltype default delete do double dynamic_cast else enum "
    "explicit export extern false float for friend goto if inline int long mutable namespace new "
    "noexcept not not_eq nullptr operator or or_eq private protected public register "
    "reinterpret_cast return short signed sizeof static static_assert static_cast struct switch "
    "template this thread_local throw true try typedef typeid typename union unsigned using "
    "virtual void volatile wchar_t while xor xor_eq T at column row rows sums total totals "
)

FEW_ROWS = 4  # at most so many rows are multiplied by one row of weights at a time, read in one stream
MOST_ROWS = 64  # at most so many rows are multiplied natively: for more, PyTorch is as fast


def cpp_name(name: str) -> str:
    """The C++ name of a variable: that in Python, unless it is a reserved word or could be a function's."""
    return f"{name}_" if name in _WORDS.split() or name.endswith("_kernel") else name


@dataclass(frozen=True)
class NativeFunction:
    """A function of C++, once for each dtype T, that a team of threads runs: contiguous tensors, then sizes.

    threads: a C++ expression for the size of the team, given `threads`, the number of threads available
    """

    name: str
    pointers: tuple[str, ...]
    sizes: tuple[str, ...]
    threads: str = "threads"

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*self.pointers, *(f"int64_t {name}" for name in self.sizes))

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(parameter.split()[-1] for parameter in self.parameters)

    @property
    def kernel(self) -> str:
        return f"{self.name}_kernel"

    @property
    def signature(self) -> str:
        return f"void {self.kernel}({', '.join(['Team& team', *self.parameters])}) {{"

    def exported(self, suffix: str, dtype: str) -> str:
        """The signature of the exported function for one dtype."""
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
    """A call of a fused op's function.

    checked: the operands that `native.supports` is asked about
    width:   of a row of the first of them
    """

    function: NativeFunction
    checked: tuple[str, ...]
    width: int
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class NativeSum:
    """A weight's gradient, to which each row adds something; `offset` is its place among all such sums."""

    name: str
    offset: int
    width: int


@dataclass(frozen=True)
class NativeGradient:
    """The gradient of an op, row by row.

    arguments: of its call, after the function's name and the dtype
    lines:     the statements for a row, unless its template has them
    """

    function: NativeFunction
    arguments: tuple[str, ...]
    sums: tuple[NativeSum, ...]
    lines: tuple[str, ...] = ()
    template: str = "gradient"

    @property
    def width(self) -> int:
        """Of all sums of a row."""
        return sum(each.width for each in self.sums)

    def sum_of(self, name: str) -> str:
        """The C++ expression for the sums of a weight's gradient."""
        offset = next(each.offset for each in self.sums if each.name == name)
        return f"sums + {offset}" if offset else "sums"


@dataclass(frozen=True)
class NativeRows:
    """An op that is computed row by row, or column by column in each row.

    lines: the statements for one of them
    """

    call: NativeCall
    gradient: NativeGradient | None
    lines: tuple[str, ...]
    template: str


@dataclass(frozen=True)
class NativeRope:
    """A rotation of heads: the plan of its kernel has all that the template needs."""

    call: NativeCall
    gradient: NativeGradient | None
    template: str = "rope"


@dataclass(frozen=True)
class NativeAttention:
    """Attention of one token to everything in the cache: the last `window` tokens, or all for None."""

    function: NativeFunction
    window: int | None


@dataclass(frozen=True)
class NativeInput:
    """An operand of a layer, by its index among all; a table is of float32, others of the model's dtype."""

    place: int
    is_table: bool


@dataclass(frozen=True)
class NativeResult:
    """One of a layer's results: a weight that it passes through, or a new tensor of `width` values a token.

    shape: the dims after [B, T], in Python
    """

    weight: str
    shape: str
    width: int


@dataclass(frozen=True)
class NativeLayer:
    """A layer's decoding step, for one token of each sequence: its arguments in order, and its statements.

    operands:       the loop's operands, as its class names them
    weights:        names of the parameters that it computes with
    passed_through: names of the parameters that are only among its results
    workspace:      how many intermediate values it has for a token
    """

    function: NativeFunction
    doc: str
    operands: tuple[str, ...]
    inputs: tuple[NativeInput, ...]
    weights: tuple[str, ...]
    slots: tuple[str, ...]
    results: tuple[NativeResult, ...]
    passed_through: tuple[str, ...]
    lines: tuple[str, ...]
    workspace: int

    @property
    def tensors(self) -> tuple[str, ...]:
        """The parameters and cache slots whose addresses native code is given."""
        return (*self.weights, *self.slots, *self.passed_through)

    def declaration(self, kind: int) -> str:
        """The same in Python; `kind` is the layer's number among its loop's different layers."""
        texts = [str(kind), _names(self.weights), _names(self.slots)]
        texts += [f"passed_through={_names(self.passed_through)}"] if self.passed_through else []
        return f"native.LayerInputs({', '.join(texts)})"

    def place(self, weight: str) -> int:
        """The index of a weight in `tensors`."""
        if weight in self.weights:
            return self.weights.index(weight)
        return len(self.weights) + len(self.slots) + self.passed_through.index(weight)


def _names(names: Sequence[str]) -> str:
    return tuple_text([f'"{name}"' for name in names])


@dataclass(frozen=True)
class NativeStep:
    """One kind of a loop's layers in C++.

    call:           of its function
    passed_through: statements that hand weights to the next layer as operands
    tensors:        how many of the addresses are this layer's
    """

    call: str
    passed_through: tuple[str, ...]
    tensors: int


@dataclass(frozen=True)
class NativeLayers:
    """The decoding step of all layers of a loop, one after another, for one token of each sequence.

    places:    indices of the loop's operands that layers read
    arguments: these operands, as arguments in Python
    first:     the argument that tells the number of rows
    others:    further arguments of the model's dtype; tables: those of float32
    made:      new tensors among the results: their names, dims after [B, T], and widths
    carried:   those of them that the next layer reads
    results:   all results, as Python returns them
    workspace: how many intermediate values there are for a token
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
    workspace: int

    def call(self, layers: str, operands: Sequence[str]) -> str:
        """The call for a list of layers, given the texts of the loop's operands."""
        span = next(text for text in with_spans(operands) if is_span(text))
        given = [operands[place] for place in self.places]
        return f"{self.name}({', '.join([layers, *given, span, 'cache'])})"

    @property
    def result_type(self) -> str:
        count = len(self.results)
        return "Tensor" if count == 1 else f"tuple[{', '.join(['Tensor'] * count)}]"
