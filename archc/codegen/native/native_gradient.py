"""Plans of native gradients of fused ops: C++ functions, from the same plans as their Triton kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.norms.norm_lines import Gradient
from archc.codegen.kernels.rows.row_writer import names_in
from archc.codegen.native.native_lines import (
    TABLES,
    function_of_rows,
    load_row,
    norm_arguments,
    values_of,
)
from archc.codegen.native.native_plan import NativeGradient, NativeSum, cpp_name


def plan_norm_gradient(name: str, op: CustomOp, width: int, gradients: Sequence[Gradient]) -> NativeGradient:
    """The gradients of norms of rows; each takes what the one before has made."""
    weights = [weight for gradient in gradients for weight in gradient.norm.weights]
    plan = _plan(name, op, width, dict.fromkeys(weights, width))
    lines = [f"const int64_t at = row * {width};", *load_row("total", gradients[0].incoming, width)]
    for gradient in gradients:
        own = _norm_gradient(gradient, plan, width)
        if gradient.norm.absent:
            own = [f"if ({gradient.norm.source}_ptr) {{", *(f"    {line}" for line in own), "}"]
        lines += own
    return replace(plan, lines=tuple(lines))


def _norm_gradient(gradient: Gradient, plan: NativeGradient, width: int) -> list[str]:
    """`total` is the gradient of a norm's result at first, and of what it reads then."""
    norm, row = gradient.norm, cpp_name(gradient.norm.source)
    weight, bias = (plan.sum_of(name) if name else "nullptr" for name in (norm.weight, norm.bias))
    eps, offset, factor, _ = norm_arguments(norm)
    joins = [f"add({gradient.joins}_ptr + at, total);"] if gradient.joins else []
    return [
        *load_row(row, norm.source, width),
        f"{norm.kind}_gradient({', '.join([row, 'total', eps, offset, factor, weight, bias])});",
        *joins,
        f"store(total, {gradient.target}_ptr + at);",
    ]


def plan_pointwise_gradient(
    name: str,
    op: CustomOp,
    width: int,
    loads: Sequence[tuple[str, str]],
    statements: Sequence[str],
    vectors: Mapping[str, str],
) -> NativeGradient:
    """The gradient of an elementwise function.

    loads:      values and their places, as in `source_ptr[row * width + column]`
    statements: those of the Triton kernel, which make a value's gradient under `d` and its name
    vectors:    operands that all rows share, with the values of which theirs is the sum
    """
    plan = _plan(name, op, width, dict.fromkeys(vectors, width))
    incoming = [(f"d{output}", f"d{output}_ptr[row * {width} + column]") for output in op.outputs]
    names = names_in(" ".join(statements))
    lines = [*values_of([*(load for load in loads if load[0] in names), *incoming], statements)]
    lines += [f"d{place} = T({cpp_name(f'd{value}')});" for value, place in loads if value not in vectors]
    for vector, value in vectors.items():
        lines.append(f"{_column_of(plan.sum_of(vector))} += {cpp_name(value)};")
    loop = f"for (int column = 0; column < {width}; column++) {{"
    return replace(plan, lines=(loop, *(f"    {line}" for line in lines), "}"))


def plan_rope_gradient(name: str, op: CustomOp, width: int, weights: Mapping[str, int]) -> NativeGradient:
    """The gradient of a rotation of heads.

    width: of a token's values in the first result; weights: of norms, with their widths
    """
    plan = _plan(name, op, width, weights, [table for table in TABLES if table in op.incoming_names])
    return replace(plan, template="rope_gradient")


def _column_of(row: str) -> str:
    return f"({row})[column]" if " " in row else f"{row}[column]"


def _plan(
    name: str, op: CustomOp, width: int, weights: Mapping[str, int], tables: Sequence[str] = ()
) -> NativeGradient:
    """The gradient of an op, without its statements."""
    rows = f"{op.incoming_names[0]}.numel() // {width}"
    function, arguments = function_of_rows(f"{name}_backward", op.incoming_names, op.gradients, rows, tables)
    places = zip(weights.items(), accumulate(weights.values(), initial=0), strict=False)
    sums = tuple(NativeSum(weight, offset, columns) for (weight, columns), offset in places)
    return NativeGradient(function, arguments, sums)
