"""Plans for fusions of rows: any elementwise ops, norms and sums along a row that fits in registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.fused import Fused
from archc.codegen.kernels.linear.one_row import OneRow
from archc.codegen.kernels.rows.last_row import last_row
from archc.codegen.kernels.rows.row_gradient import RowGradient
from archc.codegen.kernels.rows.row_memory import RowMemory
from archc.codegen.kernels.rows.row_plan import Columns, RowKernel
from archc.codegen.kernels.rows.row_steps import RowSteps
from archc.codegen.kernels.rows.row_writer import RowWriter, names_in, needed_lines
from archc.codegen.kernels.signature import Signature, as_named
from archc.codegen.native.native_kernel import plan_native_row
from archc.codegen.native.native_plan import NativeRows
from archc.ir.row_form import RowForm, RowOperand, row_form

_MOST_WARPS = 16
_STAGED = ((12288, 3), (24576, 2))  # values of a row's operands, of which so many rows are under way


def plan_row(fused: Fused) -> RowKernel:
    """The kernel of a rule of the row family."""
    form = row_form(fused.form)
    assert form is not None
    return _Planner(fused, form).kernel()


@dataclass(frozen=True)
class _Planner:
    """What the parts of a plan have in common."""

    fused: Fused
    form: RowForm

    @cached_property
    def operands(self) -> dict[str, RowOperand]:
        return {operand.name: operand for operand in self.form.operands}

    @cached_property
    def steps(self) -> RowSteps:
        whole = {operand.name: operand.columns for operand in self.form.operands}
        return RowSteps.of(self.fused.form, whole)

    @cached_property
    def memory(self) -> RowMemory:
        return RowMemory(self.form, self.steps.parts)

    @cached_property
    def outputs(self) -> list[tuple[str, str]]:
        return self.steps.outputs

    @cached_property
    def anchor(self) -> str:
        """The operand whose device and dtype, and leading dims, are those of the results."""
        return self.form.anchors[0].name

    def kernel(self) -> RowKernel:
        back = self._back()
        forward = self._forward()
        block = self.form.block
        wide = sum(operand.parts for operand in self.form.operands if operand.is_own and operand.columns > 1)
        values = self._forward_body[1]
        read = [operand for operand in self.form.operands if any(each is operand for each, *_ in values)]
        outputs = [name for name, _ in self.outputs]
        anchor = self.operands[self.anchor]
        return RowKernel(
            name=self.fused.name,
            equation=self.fused.equation,
            layout=self.fused.layout,
            op=back.op,
            width=self.form.width,
            rows=_count(f"{self.anchor}.numel()", anchor.columns * anchor.parts),
            rows_back=_count(f"d{outputs[self.form.whole]}.numel()", self.form.width),
            columns=self._used(forward),
            columns_back=self._used((*back.lines, *back.common_lines), [each for _, each in back.common]),
            warps=_warps(block),
            warps_back=min(2 * _warps(block), _MOST_WARPS),
            stages=next((stages for most, stages in _STAGED if wide * block <= most), 1),
            forward_lines=forward,
            signature=Signature.of(self.memory.given(read) | as_named(outputs), self.memory.numbers(read)),
            row_lines=tuple(filter(None, map(self.memory.row_line, read))),
            common_lines=back.common_lines,
            common=back.common,
            backward_lines=back.lines,
            backward_signature=back.signature,
            row_lines_back=back.row_lines,
            gradient_tensors=back.tensors,
            gradient_sums=back.sums,
            native=self._native(back.op),
            one_row=self._one_row(),
        )

    def _used(self, lines: Sequence[str], summed: Sequence[Columns | None] = ()) -> tuple[Columns, ...]:
        """The columns that some statements use, or that are added up over rows."""
        names = set().union(*map(names_in, lines))
        return tuple(each for each in self.memory.widths.values() if each.column in names or each in summed)

    @cached_property
    def _writer(self) -> RowWriter:
        """It has written the forward pass."""
        writer = RowWriter(self.steps, self.memory.masks)
        writer.forward()
        return writer

    @cached_property
    def _forward_body(self) -> tuple[list[str], list[tuple[RowOperand, str, int]]]:
        """The statements, and the values that they read: of which operand, and where in its row."""
        lines, names = needed_lines(self._writer.lines, {value for _, value in self.outputs})
        values = [(o, name, offset) for o in self.form.operands for name, offset in self.memory.values(o)]
        return lines, [value for value in values if value[1] in names]

    def _forward(self) -> tuple[str, ...]:
        lines, values = self._forward_body
        loads = [self.memory.load(*value) for value in values]
        results = zip(self.outputs, self.form.results, strict=True)
        stores = [self.memory.store(name, value, result.columns) for (name, value), result in results]
        return (*loads, *lines, *stores)

    def _one_row(self) -> OneRow | None:
        """The same for one row, the last of which a linear map reads."""
        names = [name for name, _ in self.outputs]
        last = last_row(self.form, (*self.operands, *names))
        if last is None:
            return None
        lines, values = self._forward_body
        alone = replace(self.memory, alone=True)
        named = [f"{name} = {value}" for name, value in self.outputs if name != value]
        result, value = self.outputs[last]
        mask = "" if self._writer.is_clean(value) else self.memory.masks[self.form.width]
        # What is beside the row may be no finite number, and what it is multiplied by is zero.
        beside = [f"{result} = tl.where({mask}, {result}, 0.0)"] if mask else []
        return OneRow(
            width=self.form.width,
            block=self.form.block,
            warps=_warps(self.form.block),
            result=result,
            others=tuple(names[:last]),
            row_lines=tuple(filter(None, map(self.memory.row_line, self.form.operands))),
            pointers=tuple(self.operands),
            arguments=tuple(map(self.memory.argument, self.form.operands)),
            lines=(*(alone.load(*value) for value in values), *lines, *named, *beside),
            interleaved=False,
            template="linear_after_norm",
        )

    def _native(self, op: CustomOp) -> NativeRows | None:
        lines, values = self._forward_body
        anchor = self.operands[self.anchor]
        if anchor.columns != self.form.width:
            return None  # numbers alone do not tell how wide rows are
        of_sequence = next((each.name for each in self.form.operands if each.is_of_sequence), "")
        elements = [self.memory.element(*value) for value in values]
        width = anchor.columns * anchor.parts
        return plan_native_row(self.fused, op, elements, self.steps, lines, width, of_sequence)

    def _back(self) -> RowGradient:
        """The gradient: values are computed again from operands, or from results that other steps read."""
        read = {ref for step in self.steps.steps for ref in step.inputs}
        cut = {value: name for name, value in self.outputs if value in read and value not in self.operands}
        writer = RowWriter(self.steps, self.memory.masks)
        writer.forward(but=tuple(cut))
        gradients = writer.backward()
        return RowGradient(self.fused, self.memory, self.outputs, self.anchor, writer, gradients, cut)


def _count(numbers: str, of_row: int) -> str:
    """How many rows so many numbers are."""
    return numbers if of_row == 1 else f"{numbers} // {of_row}"


def _warps(block: int) -> int:
    """Enough threads to hold some rows of so many values in registers, 16 each."""
    return min(max(1, block // 512), _MOST_WARPS)
