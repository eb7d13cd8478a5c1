"""Plans of native code: fused ops as C++ functions, from the same plans as their Triton kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.fused import Fused, width_of
from archc.codegen.kernels.norms.norm_lines import Gradient, Norm
from archc.codegen.kernels.rows.row_steps import ALONG, RowStep, RowSteps
from archc.codegen.kernels.rows.row_writer import names_in
from archc.codegen.native.native_gradient import (
    plan_norm_gradient,
    plan_pointwise_gradient,
    plan_rope_gradient,
)
from archc.codegen.native.native_lines import (
    NAME,
    TABLES,
    cpp_expression,
    function_of_rows,
    load_row,
    norm_arguments,
    values_of,
)
from archc.codegen.native.native_plan import (
    NativeAttention,
    NativeCall,
    NativeFunction,
    NativeRope,
    NativeRows,
    cpp_name,
)
from archc.ir.ops.attention import Causal, Sliding
from archc.ir.types import DType


def plan_native_norm(
    fused: Fused,
    op: CustomOp,
    plain: Sequence[str],
    inner: Sequence[Norm],
    ends: tuple[str, Norm | None, str],
    gradients: Sequence[Gradient],
) -> NativeRows | None:
    """The norm of a sum in C++; None where its tensors are not all of the model's dtype.

    plain, inner: operands that are added as they are, and norms whose outputs are added
    ends:         the name of the sum's output, its norm, the name of the norm's output; "" and None for none
    gradients:    of all norms, the outer one first
    """
    if not _is_uniform(fused):
        return None
    width = fused.width(plain[0])
    lines = [f"float total[{width}] = {{}};"]
    for name in plain:
        absent = f"if ({name}_ptr) " if name in fused.optional else ""
        lines.append(f"{absent}add({name}_ptr + at, total);")
    for norm in inner:
        parts = [*load_row("part", norm.source, width), _normed(norm, "part"), "add(part, total);"]
        head = f"if ({norm.source}_ptr) {{" if norm.absent else "{"
        lines += [head, *(f"    {part}" for part in parts), "}"]
    total, outer, result = ends
    if total:
        lines.append(f"store(total, {total}_ptr + at);")
    if outer:
        lines += [_normed(outer, "total"), f"store(total, {result}_ptr + at);"]
    gradient = plan_norm_gradient(fused.name, op, width, gradients)
    return NativeRows(_call(fused, op, width), gradient, tuple(lines), "norm")


def _normed(norm: Norm, row: str) -> str:
    return f"{norm.kind}({', '.join([row, *norm_arguments(norm)])});"


def plan_native_pointwise(
    fused: Fused,
    op: CustomOp,
    loads: Sequence[tuple[str, str]],
    statements: Sequence[str],
    statements_back: Sequence[str],
    vectors: Mapping[str, str],
) -> NativeRows | None:
    """An elementwise function in C++.

    loads:      values and their places, as in `source_ptr[row * width + column]`
    statements: those of the Triton kernel, `name = expression`, and those of its gradient
    vectors:    operands that all rows share, with the values of which their gradient is the sum
    """
    if not _is_uniform(fused):
        return None
    lines = values_of(loads, statements)
    width = width_of(fused.node.types[0])
    lines += [f"{name}_ptr[row * {width} + column] = T({cpp_name(name)});" for name in op.outputs]
    gradient = plan_pointwise_gradient(fused.name, op, width, loads, statements_back, vectors)
    return NativeRows(_call(fused, op, fused.width(op.anchor)), gradient, tuple(lines), "pointwise")


def plan_native_row(
    fused: Fused,
    op: CustomOp,
    loads: Sequence[tuple[str, str]],
    program: RowSteps,
    statements: Sequence[str],
    width: int,
    of_sequence: str,
) -> NativeRows | None:
    """Ops on rows in C++, with a loop for each statement over several columns.

    loads:       values and their places, as in `source_ptr[row * width + column]`
    statements:  those of the Triton kernel, `name = expression`
    width:       how many values a row of the op's anchor has
    of_sequence: an operand that has a row for each sequence, if there is one
    """
    if not _is_uniform(fused):
        return None
    columns = dict(program.columns)
    lines = [line for name, place in loads for line in _each_column(name, columns[name], f"float({place})")]
    along = {step.name: step for step in program.steps if step.op in ALONG}
    for statement in statements:
        name, text = statement.split(" = ", 1)
        columns.setdefault(name, max(columns.get(read, 1) for read in names_in(text)))
        text = _along(along[name], columns) if name in along else _of_column(cpp_expression(text), columns)
        lines += _each_column(name, columns[name], text)
    for name, value in program.outputs:
        text, width = _of_column(cpp_name(value), columns), columns[value]
        if width == 1:
            lines.append(f"{name}_ptr[row] = T({text});")
        else:
            lines.append(f"for (int column = 0; column < {width}; column++)")
            lines.append(f"    {name}_ptr[row * {width} + column] = T({text});")
    call = _call(fused, op, width, of_sequence=of_sequence)
    return NativeRows(call, None, tuple(lines), "row")


def _each_column(name: str, columns: int, text: str) -> list[str]:
    """The statements of a value: one number, or a loop over columns."""
    name = cpp_name(name)
    if columns == 1:
        return [f"const float {name} = {text};"]
    loop = f"for (int column = 0; column < {columns}; column++)"
    return [f"float {name}[{columns}];", loop, f"    {name}[column] = {text};"]


def _of_column(text: str, columns: Mapping[str, int]) -> str:
    """A C++ expression with the elements of one column."""
    rows = {cpp_name(name) for name, count in columns.items() if count > 1}
    return NAME.sub(lambda name: f"{name[0]}[column]" if name[0] in rows else name[0], text)


def _along(step: RowStep, columns: Mapping[str, int]) -> str:
    """A reduction over the columns of a row, or what follows from one."""
    (x,) = map(str, step.inputs)
    count = columns[x]
    row = cpp_name(x) if count > 1 else f"&{cpp_name(x)}"  # a single number is held as such
    if step.op == "sum":
        return f"sum_of({row}, {count})"
    if step.op == "rstd":
        return f"1.0f / std::sqrt(sum_of_squares({row}, {count}) / {count} + {step.eps}f)"
    return f"{_of_column(cpp_name(x), columns)} - sum_of({row}, {count}) / {count}"


def plan_native_rope(
    fused: Fused, op: CustomOp, width: int, queries: int, weights: Mapping[str, int]
) -> NativeRope | None:
    """A rotation of heads in C++.

    width:   of a token's values in the anchor; queries: of all of its queries
    weights: of norms, with their widths
    """
    tables = [name for name in TABLES if name in fused.types]
    if not _is_uniform(fused, tables):
        return None
    call = _call(fused, op, width, tables)
    return NativeRope(call, plan_rope_gradient(fused.name, op, queries, weights))


def plan_native_attention(fused: Fused) -> NativeAttention | None:
    """Attention of one token to a cache in C++, where its mask is causal or a sliding window."""
    mask = fused.node.attributes["mask"]
    if not isinstance(mask, Causal | Sliding):
        return None
    operands = [f"const T* {name}_ptr" for name in ("q", "k", "v")]
    caches = ["T* keys_ptr", "T* values_ptr", "T* o_ptr"]
    threads = "batch * std::min(length + 1, room) > 128 ? threads : 1"
    function = NativeFunction(fused.name, (*operands, *caches), ("batch", "room", "length"), threads)
    return NativeAttention(function, int(mask.window) if isinstance(mask, Sliding) else None)


def _is_uniform(fused: Fused, tables: Sequence[str] = ()) -> bool:
    """Whether all tensors, but for tables, are of the model's own dtype."""
    types = [*(type_ for name, type_ in fused.types.items() if name not in tables), *fused.node.types]
    return all(type_.dtype is DType.FLOAT for type_ in types)


def _call(
    fused: Fused, op: CustomOp, width: int, tables: Sequence[str] = (), of_sequence: str = ""
) -> NativeCall:
    """The call of an op's function, whose anchor has rows of `width` values."""
    rows = f"{op.anchor}.numel() // {width}"
    function, arguments = function_of_rows(fused.name, op.names, op.outputs, rows, tables, of_sequence)
    peers = [name for name in op.names if name not in (op.anchor, *tables)]
    return NativeCall(function, (op.anchor, *peers), width, arguments)
