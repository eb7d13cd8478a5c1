"""Values of a spec -> their text in Python, and shapes -> their text in comments."""

from __future__ import annotations

from collections.abc import Sequence

from archc.ir.op import Op
from archc.ir.ops.structure import EXACT_WHOLE
from archc.ir.sizes import NamedFloat, Size
from archc.ir.types import Dim, shape_text

_MAX_SIZE = 72  # characters of a size by names: a longer one is easier to read as a number


def given(op: Op, texts: Sequence[str]) -> list[str]:
    """Texts of an op's operands as arguments: without those that are None, by name after one of these."""
    present = texts.index("None") if "None" in texts else len(texts)
    named = zip(op.operands[present:], texts[present:], strict=True)
    return [*texts[:present], *(f"{operand.name}={text}" for operand, text in named if text != "None")]


def tuple_text(items: Sequence[str]) -> str:
    """Items as a tuple in Python."""
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def attribute_code(value: object, by_name: bool) -> str:
    """An attribute as Python, by the constants that it is computed from where that is asked for."""
    if isinstance(value, NamedFloat):
        return value.name if by_name else repr(float(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return size_code(value) if by_name else str(int(value))
    if isinstance(value, tuple):
        return tuple_text([attribute_code(item, by_name) for item in value])
    return repr(value)


def size_code(value: int | str) -> str:
    """A size as Python, by the constants that it is computed from."""
    if isinstance(value, Size):
        return value.text if len(value.text) <= _MAX_SIZE else str(int(value))
    return str(value)


def number_text(value: float) -> str:
    """A number as short as Python writes it; a whole one leaves whole numbers that it meets whole."""
    return repr(int(value)) if float(value).is_integer() and abs(value) < EXACT_WHOLE else repr(float(value))


def shapes_text(shapes: Sequence[tuple[Dim, ...]]) -> str:
    """Shapes as a comment; those that differ in one dim only as one: `[B, T, 32 | 8 | 8, 128]`."""
    first = shapes[0]
    if len(first) > 1 and all(len(shape) == len(first) for shape in shapes):
        columns = list(zip(*shapes, strict=True))
        if sum(len(set(column)) > 1 for column in columns) <= 1:
            dims = [
                " | ".join(map(str, column)) if len(set(column)) > 1 else str(column[0]) for column in columns
            ]
            each = " each" if len(shapes) > 1 and all(len(set(column)) == 1 for column in columns) else ""
            return f"[{', '.join(dims)}]{each}"
    return ", ".join(map(shape_text, shapes))


def result_type(count: int) -> str:
    """The annotation of so many tensors."""
    return "Tensor" if count == 1 else f"tuple[{', '.join(['Tensor'] * count)}]"
