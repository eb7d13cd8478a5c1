"""Types of values: a shape of known and symbolic dims, and a dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

Dim: TypeAlias = int | str  # a symbolic dim is its name, such as "B" or "T"


class DType(Enum):
    """What a value is made of.

    `FLOAT` is the dtype the model runs in; `F32` is float32, or float64 where the model runs in float64;
    `SCALAR` is a number known when the spec is compiled, which takes the dtype of what it meets.
    """

    FLOAT = "float"
    F32 = "f32"
    I64 = "i64"
    BOOL = "bool"
    SCALAR = "scalar"

    @property
    def is_floating(self) -> bool:
        return self in (DType.FLOAT, DType.F32, DType.SCALAR)


@dataclass(frozen=True, slots=True)
class TensorType:
    """What is known of a tensor at compile time."""

    shape: tuple[Dim, ...]
    dtype: DType

    def __str__(self) -> str:
        return f"{self.dtype.value}{shape_text(self.shape)}"

    @property
    def shape_code(self) -> str:
        """The shape alone, `[B, T, 4096]`."""
        return shape_text(self.shape)

    @property
    def width(self) -> Dim:
        """The last dim."""
        return self.shape[-1]

    @property
    def columns(self) -> int:
        """The last dim, where it is a number."""
        assert isinstance(self.width, int), f"{self.width} is not a number"
        return self.width

    def with_shape(self, *shape: Dim) -> TensorType:
        return TensorType(shape, self.dtype)

    def with_width(self, width: Dim) -> TensorType:
        return TensorType((*self.shape[:-1], width), self.dtype)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(self.shape, dtype)

    def with_sizes_of(self, other: TensorType) -> TensorType:
        """The same type, in the words of another: sizes that are equal know how they were computed."""
        if len(self.shape) != len(other.shape):
            return self
        return self.with_shape(*(b if a == b else a for a, b in zip(self.shape, other.shape, strict=True)))

    def bind(self, sizes: Mapping[str, int]) -> TensorType:
        """The same type with numbers for symbolic dims."""
        return TensorType(tuple(size_of(dim, sizes) for dim in self.shape), self.dtype)

    def numel(self) -> int:
        """Elements; every dim must be a number."""
        count = 1
        for dim in self.shape:
            assert isinstance(dim, int), f"{dim} has no size"
            count *= int(dim)
        return count


def multiple(count: int, dim: Dim) -> Dim:
    """So many times a dim: `2T`."""
    if not isinstance(dim, str):
        return count * dim
    times, name = apart(dim)
    return f"{count * times}{name}" if count * times != 1 else name


def fraction(dim: Dim, count: int) -> Dim:
    """What a dim is so many times of; raises `TypeMistake`."""
    times, name = apart(dim) if isinstance(dim, str) else (dim, "")
    if times % count:
        raise TypeMistake(f"{dim} is not a multiple of {count}")
    return multiple(times // count, name) if name else times // count


def apart(dim: str) -> tuple[int, str]:
    """A symbolic dim by what it is a multiple of: `2T` is (2, "T")."""
    name = dim.lstrip("0123456789")
    return int(dim.removesuffix(name) or 1), name


def size_of(dim: Dim, sizes: Mapping[str, int]) -> int:
    """The number that a dim stands for."""
    if not isinstance(dim, str):
        return dim
    count, name = apart(dim)
    return count * sizes[name]


def shape_text(shape: tuple[Dim, ...]) -> str:
    """A shape as it is written: [B, T, 64]."""
    return f"[{', '.join(str(dim) for dim in shape)}]"


class TypeMistake(Exception):
    """Operands that an op cannot take: `operands` names those at fault, `hint` says what to write instead."""

    def __init__(self, reason: str, *operands: str, hint: str = ""):
        super().__init__(reason)
        self.operands = operands
        self.hint = hint


def promote(left: DType, right: DType) -> DType:
    """The dtype of arithmetic between two values."""
    order = [DType.BOOL, DType.SCALAR, DType.I64, DType.FLOAT, DType.F32]
    return max(left, right, key=order.index)


def broadcast(left: TensorType, right: TensorType) -> TensorType:
    """The type of an elementwise op on two values; raises `TypeMistake` where their shapes do not meet."""
    shape: list[Dim] = []
    a, b = left.shape, right.shape
    rank = max(len(a), len(b))
    for x, y in zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True):
        if x != y and 1 not in (x, y):
            text = f"shapes {shape_text(a)} and {shape_text(b)} do not match"
            raise TypeMistake(text, "x", "y", hint=_of_parts(a, b))
        shape.append(y if x == 1 else x)
    return TensorType(tuple(shape), promote(left.dtype, right.dtype))


def _of_parts(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> str:
    """How a vector of each sequence, [B, d], meets tokens [B, T, d], or a number of a token its vector."""
    short, long = sorted((a, b), key=len)
    if short and short == long[:-1]:
        return f"`unsqueeze(...)` of {shape_text(short)} is {shape_text((*short, 1))}"
    if len(short) == 2 and len(long) == 3 and isinstance(short[0], str) and short == (long[0], long[2]):
        return f"`transpose(unsqueeze(...))` of {shape_text(short)} is {shape_text((short[0], 1, short[1]))}"
    return ""


ROWS = "N"  # the dim of the tokens that an expert is given, or all of them are


def taken_type(type_: TensorType, kind: str) -> TensorType:
    """The type of what an expert's body takes of a value: its tokens' or choices' rows, its own, or all."""
    match kind:
        case "token":
            return type_.with_shape(ROWS, *type_.shape[2:])
        case "choice":
            return type_.with_shape(ROWS, *(type_.shape[3:] or (1,)))
        case "expert":
            return type_.with_shape(*type_.shape[1:])
        case _:
            return type_
