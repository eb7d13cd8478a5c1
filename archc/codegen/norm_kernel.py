"""Plans for norms: [residual +] x -> norm -> [+ residual], one row a program."""

from __future__ import annotations

from typing import Any

from archc.codegen.class_plan import Argument, Line
from archc.codegen.custom_op import CustomOp
from archc.codegen.fused import Fused, power_of_two
from archc.codegen.norm_plan import NormKernel
from archc.codegen.wide_norm import MAX_NARROW, WARPS, plan_wide_norm
from archc.ir.op import Trait
from archc.ir.rule import OperandRef, Rule, StepRef


def plan_norm(fused: Fused) -> NormKernel:
    """The kernel of a rule of the norm family."""
    rule, types = fused.rule, fused.types
    place, step = next((i, s) for i, s in enumerate(rule.steps) if s.op.has(Trait.NORM))
    addends = _addends(rule, step.inputs[0])
    after = _added_after(rule, place)
    outputs = dict(zip(rule.outputs, rule.output_names, strict=True))
    sums = isinstance(step.inputs[0], StepRef)
    total = outputs[step.inputs[0]] if isinstance(step.inputs[0], StepRef) else addends[0]
    result = rule.output_names[-1]
    weights = tuple(name for name in ("weight", "bias") if name in types)
    width = fused.width(addends[0])
    block = power_of_two(width)
    load = "" if block == width else ", mask=inside, other=0.0"
    offset = float(fused.node.attributes["offset"])
    factor = f"({offset} + weight)" if offset else "weight"
    operands = (*addends, *after)
    eps = float(fused.node.attributes["eps"])
    wide = None
    if width > MAX_NARROW:
        wide = plan_wide_norm(step.op.name, total, result, weights, factor, width, eps, joins=sums)
    return NormKernel(
        name=fused.name,
        equation=fused.equation,
        layout=fused.layout,
        op=_custom_op(fused, addends, after, total, result, sums, weights),
        width=width,
        block=block,
        warps=_warps(block),
        sums=sums,
        total=total,
        result=result,
        weight="weight" in weights,
        weights=weights,
        sum_lines=_sum_lines(addends, total, load, fused.optional),
        norm_lines=_norm_lines(step.op.name, total, width, eps, bool(load)),
        result_lines=_result_lines(result, weights, factor, after, load),
        gradient_lines=_gradient_lines(
            step.op.name, result, weights, factor, total if sums else "", width, load
        ),
        row_lines=tuple(_rows(name, width, name in fused.optional) for name in operands),
        forward_parameters=(
            *(f"{name}_ptr" for name in (*operands, *weights, *((total,) if sums else ()), result)),
            *(f"{name}_stride" for name in operands),
        ),
        forward_arguments=(
            *(f"{name}_rows" for name in operands),
            *weights,
            *((total,) if sums else ()),
            result,
            *(_stride(name, name in fused.optional) for name in operands),
        ),
        backward_parameters=(
            f"d{result}_ptr",
            *((f"d{total}_ptr",) if sums else ()),
            f"{total}_ptr",
            *(("weight_ptr",) if "weight" in weights else ()),
            "dx_ptr",
            *(f"d{name}_ptr" for name in weights),
            "rows",
            f"{total}_stride",
        ),
        backward_arguments=(
            f"d{result}.contiguous()",
            *((f"d{total}.contiguous()",) if sums else ()),
            "source",
            *(("weight",) if "weight" in weights else ()),
            "dx",
            *(f"d{name}" for name in weights),
            "rows",
            "source.stride(0)",
        ),
        backward_warps=WARPS if wide else _backward_warps(block, weights),
        wide=wide,
        template="wide_norm" if wide else "norm",
    )


def _addends(rule: Rule, ref: Any) -> list[str]:
    """The operands that the norm reads the sum of, in the order in which they are added."""
    if isinstance(ref, OperandRef):
        return [ref.name]
    assert isinstance(ref, StepRef)
    return [name for inner in rule.steps[ref.step].inputs for name in _addends(rule, inner)]


def _added_after(rule: Rule, norm: int) -> list[str]:
    """The operand that the normed value is added to, if there is one."""
    return [
        ref.name
        for step in rule.steps
        if StepRef(norm) in step.inputs
        for ref in step.inputs
        if isinstance(ref, OperandRef)
    ]


def _warps(block: int) -> int:
    """Enough threads to hold a row in registers, and few enough for 16 bytes of bfloat16 each.

    A warp of 64 threads takes 512 values; 16 of them are as many as a program may have on AMD.
    """
    return max(1, block // 512) if block <= 4096 else 8 if block <= 8192 else 16


def _backward_warps(block: int, weights: tuple[str, ...]) -> int:
    """Twice as many where the gradients of two weights share the registers with the row."""
    return min(16, 2 * _warps(block)) if len(weights) > 1 and block <= 4096 else _warps(block)


def _custom_op(
    fused: Fused,
    addends: list[str],
    after: list[str],
    total: str,
    result: str,
    sums: bool,
    weights: tuple[str, ...],
) -> CustomOp:
    anchor = next(name for name in (*addends, *after) if name not in fused.optional)
    names = [*fused.rule.operands, *weights]
    gradient = dict.fromkeys(addends, "dx")
    gradient.update({name: f"dx if ctx.has_{name} else None" for name in fused.optional})
    gradient.update(dict.fromkeys(after, f"d{result}"))
    gradient.update({name: f"d{name}" for name in weights})
    incoming = [f"d{result}", *((f"d{total}",) if sums else ()), total]
    saved = [total, *(name for name in weights if name == "weight")]
    zeros = [f"{n} = torch.zeros_like({anchor}) if {n} is None else {n}" for n in fused.optional]
    return CustomOp(
        operands=fused.operands,
        outputs=fused.rule.output_names,
        fakes=(f"_like({anchor})",) * len(fused.rule.output_names),
        saved=tuple(saved),
        incoming=tuple(Argument(name) for name in dict.fromkeys((*incoming, *saved))),
        gradients=("dx", *(f"d{name}" for name in weights)),
        gradient_fakes=(f"_like({total})", *(f"_like({total}, {total}.shape[-1])" for _ in weights)),
        returned=tuple(gradient[name] for name in names),
        remembered=tuple(f"ctx.has_{name} = {name} is not None" for name in fused.optional),
        anchor=anchor,
        plain=(*(Line(line) for line in zeros), *fused.plain),
    )


def _rows(name: str, width: int, optional: bool) -> str:
    rows = f"_rows({name}, {width})"
    return f"{name}_rows = None if {name} is None else {rows}" if optional else f"{name}_rows = {rows}"


def _stride(name: str, optional: bool) -> str:
    stride = f"{name}_rows.stride(0)"
    return f"0 if {name} is None else {stride}" if optional else stride


def _sum_lines(addends: list[str], total: str, load: str, optional: tuple[str, ...]) -> tuple[str, ...]:
    lines: list[str] = []
    for place, name in enumerate(addends):
        value = f"tl.load({name}_ptr + row * {name}_stride + column{load}).to(tl.float32)"
        if name in optional:
            lines += [f"if {name}_ptr is not None:  # None stands for zeros", f"    {total} += {value}"]
        else:
            lines.append(f"{total} {'+=' if place else '='} {value}")
    return tuple(lines)


def _norm_lines(kind: str, total: str, width: int, eps: float, masked: bool) -> tuple[str, ...]:
    """`normed` and `rstd` of a row in `total`."""
    if kind == "rms_norm":
        return (
            f"rstd = 1.0 / tl.sqrt(tl.sum({total} * {total}, 0) / {width} + {eps})",
            f"normed = {total} * rstd",
        )
    centred = f"{total} - tl.sum({total}, 0) / {width}"
    return (
        f"centred = tl.where(inside, {centred}, 0.0)" if masked else f"centred = {centred}",
        f"rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / {width} + {eps})",
        "normed = centred * rstd",
    )


def _result_lines(
    result: str, weights: tuple[str, ...], factor: str, after: list[str], load: str
) -> tuple[str, ...]:
    lines = [f"{result} = normed"]
    if "weight" in weights:
        lines = [
            f"weight = tl.load(weight_ptr + column{load}).to(tl.float32)",
            f"{result} = normed * {factor}",
        ]
    if "bias" in weights:
        lines.append(f"{result} += tl.load(bias_ptr + column{load}).to(tl.float32)")
    lines += [f"{result} += tl.load({n}_ptr + row * {n}_stride + column{load}).to(tl.float32)" for n in after]
    return tuple(lines)


def _gradient_lines(
    kind: str, result: str, weights: tuple[str, ...], factor: str, total: str, width: int, load: str
) -> tuple[str, ...]:
    """`dx`, and this row's part of the weights' gradients; `total` names the sum whose own gradient joins."""
    lines = []
    if "weight" in weights:
        lines.append(f"dweight += d{result} * normed")
    if "bias" in weights:
        lines.append(f"dbias += d{result}")
    lines.append(f"dnormed = d{result} * {factor}" if "weight" in weights else f"dnormed = d{result}")
    along = f"normed * (tl.sum(dnormed * normed, 0) / {width})"
    if kind == "rms_norm":
        lines.append(f"dx = rstd * (dnormed - {along})")
    else:
        lines.append(f"dx = rstd * (dnormed - tl.sum(dnormed, 0) / {width} - {along})")
    if total:
        lines.append(f"dx += tl.load(d{total}_ptr + row * {width} + column{load}).to(tl.float32)")
    return tuple(lines)
