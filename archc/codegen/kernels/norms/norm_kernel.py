"""Plans for norms: addends, some of them normed first, -> their sum -> its norm; one row per program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from archc.codegen.code import Argument, Line
from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.fused import Fused
from archc.codegen.kernels.linear.one_row import OneRow
from archc.codegen.kernels.norms.norm_lines import (
    Gradient,
    Norm,
    Row,
    gradient_lines,
    if_there,
    result_lines,
    scale_lines,
)
from archc.codegen.kernels.norms.norm_parts import NormParts
from archc.codegen.kernels.norms.norm_plan import NormGradient, NormKernel
from archc.codegen.kernels.norms.wide_norm import MAX_NARROW, plan_wide_norm
from archc.codegen.kernels.signature import Signature, as_named, contiguous, in_rows, row_strides
from archc.codegen.native.native_kernel import plan_native_norm

_MAX_STAGED = 4096  # columns of a row, of which three are under way whatever its dtype
_ABSENT = "None stands for zeros"


def plan_norm(fused: Fused) -> NormKernel:
    """The kernel of a rule of the norm family."""
    return _Planner(fused).kernel()


@dataclass(frozen=True)
class _Planner(NormParts):
    """The kernels, and the op that they are registered as."""

    @cached_property
    def wide(self) -> bool:
        """Whether the gradient is too wide for registers, which several norms share."""
        return self.row.block * len(self.gradients) > MAX_NARROW

    def kernel(self) -> NormKernel:
        operands = [addend.name for addend in (*self.form.plain, *self.form.inner)]
        ends = list(self.fused.rule.output_names)
        saved = [gradient.norm.source for gradient in self.gradients]
        op = self._custom_op()
        return NormKernel(
            name=self.fused.name,
            equation=self.fused.equation,
            layout=self.fused.layout,
            op=op,
            width=self.row.width,
            block=self.row.block,
            warps=_warps(self.row.block),
            forward_lines=self._forward_lines(),
            row_lines=tuple(self._rows(name) for name in operands),
            signature=Signature.of(
                in_rows(operands) | as_named((*self.weights, *ends)), self._strides(operands)
            ),
            weights=self.weights,
            targets=tuple(gradient.target for gradient in self.gradients),
            source=saved[0],
            source_lines=tuple(self._rows(name) for name in saved),
            gradients=self._kernels_back(),
            native=plan_native_norm(
                self.fused,
                op,
                [addend.name for addend in self.form.plain],
                self.inner,
                (self.total if self.form.total else "", self.outer, self.result if self.outer else ""),
                self.gradients,
            ),
            one_row=self._one_row(),
            template="wide_norm" if self.wide else "norm",
        )

    def _forward_lines(self) -> tuple[str, ...]:
        lines = [*self._sum_lines(self.row)]
        if self.form.total:
            lines.append(self.row.store(self.total, self.total))
        if self.outer:
            lines += self._result_lines(self.outer, self.row)
            lines.append(self.row.store(self.result, self.result))
        return tuple(lines)

    def _sum_lines(self, row: Row) -> tuple[str, ...]:
        """The addends, and their sum."""
        lines: list[str] = []
        for addend in self.form.plain:
            load = row.load(addend.name, f"{addend.name}_stride")
            line = f"{self.total} {'+=' if lines else '='} {load}"
            absent = addend.name in self.fused.optional
            lines += if_there(addend.name, [line], _ABSENT) if absent else [line]
        for norm in self.inner:
            load = row.load(norm.source, f"{norm.source}_stride")
            added = result_lines(norm, row, self.total, "+=")
            normed = [f"{norm.source} = {load}", *scale_lines(norm, row), *added]
            lines += if_there(norm.source, normed, _ABSENT) if norm.absent else normed
        return tuple(lines)

    def _result_lines(self, outer: Norm, row: Row) -> tuple[str, ...]:
        """The norm of the sum."""
        return (*scale_lines(outer, row), *result_lines(outer, row, self.result, "="))

    def _one_row(self) -> OneRow:
        """The same for one row, whose norm a linear map reads, or whose sum where that has none."""
        row = replace(self.row, alone=True)
        operands = [addend.name for addend in (*self.form.plain, *self.form.inner)]
        normed = self._result_lines(self.outer, row) if self.outer else ()
        return OneRow(
            width=row.width,
            block=row.block,
            warps=_warps(row.block),
            result=self.result if self.outer else self.total,
            others=(self.total,) if self.outer and self.form.total else (),
            row_lines=tuple(self._rows(name) for name in operands),
            pointers=(*operands, *self.weights),
            arguments=(*(f"{name}_rows" for name in operands), *self.weights),
            lines=(*self._sum_lines(row), *normed),
            interleaved=False,
            template="linear_after_norm",
        )

    def _kernels_back(self) -> tuple[NormGradient, ...]:
        if not self.wide:
            return (self._kernel_back(self.gradients, ""),)
        suffixes = [f"_{g.norm.source}" if len(self.gradients) > 1 else "" for g in self.gradients]
        pairs = zip(self.gradients, suffixes, strict=True)
        return tuple(self._kernel_back([gradient], suffix) for gradient, suffix in pairs)

    def _kernel_back(self, gradients: Sequence[Gradient], suffix: str) -> NormGradient:
        """The kernel for the gradients of some norms, each of which takes what the one before has made."""
        norms = [gradient.norm for gradient in gradients]
        given = [gradients[0].incoming, *(gradient.joins for gradient in gradients if gradient.joins)]
        factors = [norm.weight for norm in norms if norm.weight]
        sources, targets = [norm.source for norm in norms], [gradient.target for gradient in gradients]
        weights = tuple(name for norm in norms for name in norm.weights)
        made = {gradient.target for gradient in self.gradients}
        written = as_named((*factors, *targets, *(f"d{name}" for name in weights)))
        wide = plan_wide_norm(gradients[0], self.row.width) if self.wide else None
        return NormGradient(
            suffix=suffix,
            signature=Signature.of(
                contiguous(given) | as_named(made.intersection(given)) | in_rows(sources) | written,
                {"rows": "rows"} | self._strides(sources),
            ),
            weights=weights,
            weight_lines=self._weight_lines(norms),
            lines=self._gradient_lines(gradients),
            warps=wide.warps if wide else _backward_warps(self.row.block, weights),
            stages=self._stages(gradients[0].norm.source),
            wide=wide,
            absent=norms[0].source if self.wide and norms[0].absent else "",
        )

    def _stages(self, source: str) -> str:
        """As many rows as the shared memory of all chips holds."""
        if self.wide:
            return ""
        return "3" if self.row.block <= _MAX_STAGED else f"3 if {source}.element_size() == 2 else 2"

    def _weight_lines(self, norms: Sequence[Norm]) -> tuple[str, ...]:
        lines: list[str] = []
        for norm in norms:
            load = [f"{name} = {self.row.load_vector(name)}" for name in (norm.weight,) if name]
            lines += if_there(norm.weight, load) if norm.absent and load else load
        return tuple(lines)

    def _gradient_lines(self, gradients: Sequence[Gradient]) -> tuple[str, ...]:
        lines: list[str] = []
        for gradient in gradients:
            own = gradient_lines(gradient, self.row, f"{gradient.norm.source}_stride")
            lines += if_there(gradient.norm.source, own) if gradient.norm.absent else own
        return tuple(lines)

    def _rows(self, name: str) -> str:
        rows = f"_rows({name}, {self.row.width})"
        absent = name in self.fused.optional
        return f"{name}_rows = None if {name} is None else {rows}" if absent else f"{name}_rows = {rows}"

    def _strides(self, names: Sequence[str]) -> dict[str, str]:
        absent = [name for name in names if name in self.fused.optional]
        zeros = {f"{n}_stride": f"0 if {n}_rows is None else {n}_rows.stride(0)" for n in absent}
        return row_strides(names) | zeros

    def _custom_op(self) -> CustomOp:
        fused, optional = self.fused, self.fused.optional
        names = [operand.name for operand in fused.operands]
        factors = [norm.weight for norm in (g.norm for g in self.gradients) if norm.weight]
        saved = [*(gradient.norm.source for gradient in self.gradients), *factors]
        incoming = [self.gradients[0].incoming, *(g.joins for g in self.gradients if g.joins), *saved]
        targets = [gradient.target for gradient in self.gradients]
        anchor = next(n for n in ("residual", *names) if n in names and n not in self.weights)  # never None
        source = saved[0]
        return CustomOp(
            operands=fused.operands,
            outputs=fused.rule.output_names,
            fakes=(f"_like({anchor})",) * len(fused.rule.output_names),
            saved=tuple(saved),
            incoming=tuple(Argument(n, "Tensor | None" if n in optional else "Tensor") for n in incoming),
            gradients=(*targets, *(f"d{name}" for name in self.weights)),
            gradient_fakes=(
                *(f"_like({source})" for _ in targets),
                *(f"_like({source}, {source}.shape[-1])" for _ in self.weights),
            ),
            returned=tuple(self._returned(name) for name in names),
            remembered=tuple(f"ctx.has_{name} = {name} is not None" for name in optional),
            anchor=anchor,
            plain=(*(Line(self._zeros(name, anchor)) for name in optional), *fused.plain),
        )

    def _returned(self, name: str) -> str:
        """The gradient of an operand: of a weight or a normed row its own, of the others that of the sum."""
        own = name in self.weights or any(norm.source == name for norm in self.inner)
        gradient = f"d{name}" if own else self.gradients[0].target if self.outer else f"d{self.total}"
        return f"{gradient} if ctx.has_{name} else None" if name in self.fused.optional else gradient

    def _zeros(self, name: str, anchor: str) -> str:
        shape = (
            f"{anchor}.new_zeros({self.row.width})" if name in self.weights else f"torch.zeros_like({anchor})"
        )
        return f"{name} = {shape} if {name} is None else {name}"


def _warps(block: int) -> int:
    """Enough threads to hold a row in registers, and few enough for 16 bytes of bfloat16 each.

    A warp of 64 threads takes 512 values; 16 of them are as many as a program may have on AMD.
    """
    return max(1, block // 512) if block <= 4096 else 8 if block <= 8192 else 16


def _backward_warps(block: int, weights: tuple[str, ...]) -> int:
    """Twice as many where the gradients of several weights share the registers with the row."""
    return min(16, 2 * _warps(block)) if len(weights) > 1 and block <= 4096 else _warps(block)
