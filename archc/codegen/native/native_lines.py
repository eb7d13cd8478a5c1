"""Statements of native code that an op and its gradient have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from archc.codegen.kernels.norms.norm_lines import Norm
from archc.codegen.native.native_plan import FEW_ROWS, NativeFunction, cpp_name
from archc.ir.row_form import EACH

TABLES = ("cos", "sin")  # of a rotation: float32 in any model
TABLE_TOKENS = "cos.shape[0] * cos.shape[1]"

NAME = re.compile(r"(?<![\w:.])[A-Za-z_]\w*(?![\w(:])")  # of a variable
_FUNCTION = re.compile(r"\btl\.(?=\w+\()|(?<![\w.])(?=(?:tanh|log1p)\()")
_NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?:e[+-]?\d+)?|(?<![\w.])\d+e[+-]?\d+")


def cpp_expression(text: str) -> str:
    """Arithmetic of a Triton kernel in C++: functions of `math`, numbers of single precision."""
    text = _NUMBER.sub(lambda number: f"{number[0]}f", _FUNCTION.sub("math::", text))
    return NAME.sub(lambda name: cpp_name(name[0]), text)


def values_of(loads: Iterable[tuple[str, str]], statements: Iterable[str]) -> list[str]:
    """The values of one column: those at some places, and those of a Triton kernel's statements."""
    lines = [f"const float {cpp_name(name)} = {place};" for name, place in loads]
    for statement in statements:
        name, expression = statement.split(" = ", 1)
        lines.append(f"const float {cpp_name(name)} = {cpp_expression(expression)};")
    return lines


def load_row(name: str, source: str, width: int) -> list[str]:
    """A row of a tensor in float32, under a name."""
    return [f"float {name}[{width}] = {{}};", f"add({source}_ptr + at, {name});"]


def norm_arguments(norm: Norm) -> tuple[str, ...]:
    """What a norm's function takes besides its row."""
    weight, bias = (f"{name}_ptr" if name else "none<T>" for name in (norm.weight, norm.bias))
    return f"{norm.eps}f", f"{norm.offset}f", weight, bias


def function_of_rows(
    name: str,
    given: Sequence[str],
    made: Sequence[str],
    rows: str,
    tables: Sequence[str],
    of_sequence: str = "",
) -> tuple[NativeFunction, tuple[str, ...]]:
    """A function that works on rows, and the arguments of its call.

    given, made: the tensors that it reads, and those that it writes
    rows: how a call computes the number of rows
    tables: those of what it reads that are of float32 in any model, a row for each token
    of_sequence: one of what it reads that has a row for each sequence
    """
    types = {tensor: "const float*" if tensor in tables else "const T*" for tensor in given}
    types.update(dict.fromkeys(made, "T*"))
    sizes = {"rows": rows} | ({"table_tokens": TABLE_TOKENS} if tables else {})
    sizes |= {EACH: f"{rows} // len({of_sequence})"} if of_sequence else {}
    pointers = tuple(f"{type_} {tensor}_ptr" for tensor, type_ in types.items())
    function = NativeFunction(name, pointers, tuple(sizes), f"rows > {FEW_ROWS} ? threads : 1")
    return function, (*types, *sizes.values(), "torch.get_num_threads()")
