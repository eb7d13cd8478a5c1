"""What the templates of native code may see: functions in C++, for few rows on a CPU, and calls of them."""

from __future__ import annotations

from dataclasses import dataclass

NATIVE_ROWS = 4  # that native code takes: PyTorch's products are as fast for more


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
    """A function of a fused op, what `native.takes` is asked about, and what the function is given."""

    function: NativeFunction
    asked: tuple[str, ...]
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
