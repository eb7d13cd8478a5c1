"""What the templates of native code may see: functions in C++, for a CPU, and calls of them."""

from __future__ import annotations

from dataclasses import dataclass

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
    """A function of C++, once for each dtype T: pointers to contiguous tensors, then sizes."""

    name: str
    pointers: tuple[str, ...]
    sizes: tuple[str, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*self.pointers, *(f"int64_t {name}" for name in self.sizes))

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(parameter.split()[-1] for parameter in self.parameters)

    @property
    def signature(self) -> str:
        return f"void {self.name}_rows({', '.join(self.parameters)}) {{"

    def exported(self, suffix: str, dtype: str) -> str:
        """The signature of what is called from outside, for one dtype."""
        parameters = ", ".join(self.parameters).replace("T*", f"{dtype}*")
        return f'extern "C" void {self.name}_{suffix}({parameters}) {{'


LINEAR = NativeFunction(
    "linear",
    ("const T* x", "const T* weight", "const T* bias", "T* y"),
    ("rows", "outputs", "inputs", "threads"),
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
    ("count", "outputs", "inputs", "most", "threads"),
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
    """Attention of one token, which sees all of a cache of at most `longest` tokens; None for any."""

    function: NativeFunction
    longest: int | None


@dataclass(frozen=True)
class NativeLayer:
    """A layer for one token of each sequence: what its class hands over, and the statements in C++.

    first:   the operand that says how many rows there are
    others:  further operands of the model's dtype that it reads; tables: those of float32
    inputs:  all that it reads, in the order in which it takes them; weights: names of parameters of the class
    made:    results that it writes, with their shapes behind [B, T]; results: all, as the class returns them
    longest: tokens of a cache of which attention sees all; None for any
    """

    function: NativeFunction
    doc: str
    first: str
    others: tuple[str, ...]
    tables: tuple[str, ...]
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    slots: tuple[str, ...]
    made: tuple[tuple[str, str], ...]
    results: tuple[str, ...]
    longest: int | None
    lines: tuple[str, ...]
