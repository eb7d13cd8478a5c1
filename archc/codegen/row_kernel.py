"""Plans for rows: any elementwise ops, norms and sums along a row that a program holds in registers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from archc.codegen.class_plan import Argument
from archc.codegen.custom_op import CustomOp
from archc.codegen.fused import Fused, power_of_two
from archc.codegen.masks import load_where, store_where
from archc.codegen.native_kernel import plan_native_row
from archc.codegen.native_plan import NativeRows
from archc.codegen.row_plan import Columns, RowKernel
from archc.codegen.row_steps import RowSteps, RowWriter, names_in, needed_lines
from archc.ir.expr import Expr, Formula
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
    def outputs(self) -> list[tuple[str, str]]:
        return self.steps.outputs

    @cached_property
    def widths(self) -> dict[int, Columns]:
        """Columns by how many they are, of a row and of vectors of other lengths."""
        counts = {operand.columns for operand in self.form.operands} - {1}
        return {count: self._columns(count) for count in sorted(counts | {self.form.width})}

    def _columns(self, count: int) -> Columns:
        suffix = "" if count == self.form.width else f"_{count}"
        block = power_of_two(count)
        return Columns(count, block, f"column{suffix}", f"inside{suffix}" if block != count else "")

    @cached_property
    def masks(self) -> dict[int, str]:
        return {count: columns.mask for count, columns in self.widths.items()}

    @cached_property
    def anchor(self) -> str:
        """The operand whose device and dtype, and leading dims, are those of the results."""
        width = self.form.width
        return next(o.name for o in self.form.operands if o.is_own and o.columns == width)

    # ------------------------------------------------------------------ memory

    def _values(self, operand: RowOperand) -> Iterator[tuple[str, int]]:
        """The values that an operand is read as, and where in its row each starts."""
        parts = self.steps.parts.get(operand.name, [operand.name])
        for number, name in enumerate(parts):
            yield name, number * operand.columns

    def _load(self, operand: RowOperand, name: str, offset: int) -> str:
        columns = self.widths.get(operand.columns)
        place = [f"{operand.name}_ptr", *self._row_terms(operand), *([str(offset)] if offset else [])]
        place += [columns.column] if columns else []
        mask = load_where(columns.mask) if columns else ""
        return f"{name} = tl.load({' + '.join(place)}{mask}).to(tl.float32)"

    def _row_terms(self, operand: RowOperand) -> list[str]:
        """Where a row of an operand starts, as terms of a sum."""
        if operand.is_own and self.form.heads > 1:
            heads = self.form.heads
            return [f"row // {heads} * {operand.name}_stride", f"row % {heads} * {operand.name}_head"]
        if operand.is_own:
            return [f"row * {operand.name}_stride"]
        if "//" in operand.place:
            return [f"{operand.place} * {operand.name}_stride"]
        if operand.place:
            return [f"{operand.place} * {operand.columns}" if operand.columns > 1 else operand.place]
        return []

    def _strides(self, operand: RowOperand) -> dict[str, str]:
        """Parameters for the strides of an operand, and their arguments."""
        if operand.is_own and self.form.heads > 1:
            rows = f"{operand.name}_rows.stride"
            return {f"{operand.name}_stride": f"{rows}(0)", f"{operand.name}_head": f"{rows}(1)"}
        if operand.is_own or "//" in operand.place:
            return {f"{operand.name}_stride": f"{operand.name}_rows.stride(0)"}
        return {}

    def _row_line(self, operand: RowOperand) -> str:
        """The statement that gives an operand's rows their strides, "" where it needs none."""
        name, columns = operand.name, operand.columns * operand.parts
        if not self._strides(operand):
            return ""
        if operand.is_own and self.form.heads > 1:
            return f"{name}_rows = _heads({name}, {self.form.heads}, {columns})"
        return f"{name}_rows = _rows({name}, {columns})"

    def _argument(self, operand: RowOperand) -> str:
        return f"{operand.name}_rows" if self._strides(operand) else operand.name

    def _store(self, pointer: str, value: str, columns: int, offset: int = 0, total: int = 0) -> str:
        """The statement that writes one row of a contiguous tensor."""
        known = self.widths.get(columns)
        place = [f"{pointer}_ptr", f"row * {total or columns}" if (total or columns) > 1 else "row"]
        place += [str(offset)] if offset else []
        mask = store_where(known.mask) if known else ""
        return f"tl.store({' + '.join([*place, *([known.column] if known else [])])}, {value}{mask})"

    # ------------------------------------------------------------------ kernel

    def kernel(self) -> RowKernel:
        back = self._back()
        forward = self._forward()
        block = power_of_two(self.form.width)
        wide = sum(operand.parts for operand in self.form.operands if operand.is_own and operand.columns > 1)
        strides = [pair for operand in self.form.operands for pair in self._strides(operand).items()]
        names = [operand.name for operand in self.form.operands]
        outputs = [name for name, _ in self.outputs]
        return RowKernel(
            name=self.fused.name,
            equation=self.fused.equation,
            layout=self.fused.layout,
            op=back.op,
            width=self.form.width,
            rows=f"{self.anchor}.numel() // {self.form.width * self.operands[self.anchor].parts}",
            rows_back=f"d{outputs[0]}.numel() // {self.form.width}",
            columns=self._used(forward),
            columns_back=self._used((*back.lines, *back.common_lines)),
            warps=_warps(block),
            warps_back=min(2 * _warps(block), _MOST_WARPS),
            stages=next((stages for most, stages in _STAGED if wide * block <= most), 1),
            forward_lines=forward,
            forward_parameters=(*(f"{name}_ptr" for name in (*names, *outputs)), *(n for n, _ in strides)),
            forward_arguments=(
                *(self._argument(operand) for operand in self.form.operands),
                *outputs,
                *(text for _, text in strides),
            ),
            helpers=("tanh",) if any("tanh(" in line for line in (*forward, *back.lines)) else (),
            row_lines=tuple(filter(None, map(self._row_line, self.form.operands))),
            common_lines=back.common_lines,
            common=back.common,
            backward_lines=back.lines,
            backward_parameters=back.parameters,
            backward_arguments=back.arguments,
            row_lines_back=back.row_lines,
            gradient_tensors=back.tensors,
            gradient_sums=back.sums,
            native=self._native(back.op),
        )

    def _used(self, lines: Sequence[str]) -> tuple[Columns, ...]:
        """The columns that some statements speak of."""
        names = set().union(*map(names_in, lines))
        return tuple(columns for columns in self.widths.values() if columns.column in names)

    @cached_property
    def _forward_body(self) -> tuple[list[str], list[tuple[RowOperand, str, int]]]:
        """The statements, and the values that they read: of which operand, and where in its row."""
        writer = RowWriter(self.steps, self.masks)
        writer.forward()
        lines, names = needed_lines(writer.lines, {value for _, value in self.outputs})
        values = [(o, name, offset) for o in self.form.operands for name, offset in self._values(o)]
        return lines, [value for value in values if value[1] in names]

    def _forward(self) -> tuple[str, ...]:
        lines, values = self._forward_body
        loads = [self._load(*value) for value in values]
        stores = [self._store(name, value, self.form.width) for name, value in self.outputs]
        return (*loads, *lines, *stores)

    def _native(self, op: CustomOp) -> NativeRows | None:
        lines, values = self._forward_body
        return plan_native_row(self.fused, op, [self._place(*v) for v in values], self.steps, lines)

    def _place(self, operand: RowOperand, name: str, offset: int) -> tuple[str, str]:
        """A value, and its element of a contiguous tensor."""
        total = operand.columns * operand.parts
        row = operand.place.replace("//", "/")
        terms = [f"({row}) * {total}" if " " in row else f"{row} * {total}"] if row else []
        terms += [str(offset)] if offset else []
        terms += ["column"] if operand.columns > 1 else []
        return name, f"{operand.name}_ptr[{' + '.join(terms) or '0'}]"

    # ---------------------------------------------------------------- gradient

    def _back(self) -> _Back:
        """The gradient, computed again from the operands, or from those results that other steps read."""
        read = {ref for step in self.steps.steps for ref in step.inputs}
        cut = {value: name for name, value in self.outputs if value in read and value not in self.operands}
        writer = RowWriter(self.steps, self.masks)
        writer.forward(but=tuple(cut))
        gradients = writer.backward()
        return _Back(self, writer, gradients, cut)


@dataclass(frozen=True)
class _Back:
    """The parts of the gradient's kernel.  `cut`: values that are read as results, and their names there."""

    planner: _Planner
    writer: RowWriter
    gradients: dict[str, Formula]
    cut: dict[str, str]

    @cached_property
    def incoming(self) -> list[str]:
        return [f"d{name}" for name, _ in self.planner.outputs]

    @cached_property
    def given(self) -> dict[str, str]:
        """Operands whose gradient is one that comes in, or another operand's, by what that is called."""
        found: dict[str, str] = {}
        made: dict[Formula, str] = {}
        for operand in self.planner.form.operands:
            whole = operand.is_own and operand.parts == 1 and operand.columns == self.planner.form.width
            formula = self.gradients.get(operand.name, 0.0)
            if not whole or not isinstance(formula, Expr):
                continue
            text = str(formula.args[0])
            if formula.op == "leaf" and text in self.incoming:
                found[operand.name] = text
            elif formula in made:
                found[operand.name] = made[formula]
            else:
                made[formula] = f"d{operand.name}"
        everything = len(found) == len(self.planner.form.operands)
        return {} if everything else found

    @cached_property
    def written(self) -> list[RowOperand]:
        return [operand for operand in self.planner.form.operands if operand.name not in self.given]

    @cached_property
    def _body(self) -> tuple[list[str], set[str]]:
        """Statements from loads to stores but the loads, and all names in them."""
        stores: list[str] = []
        for operand in self.written:
            for name, offset in self.planner._values(operand):
                self.writer.assign(f"d{name}", self.gradients.get(name, 0.0))
                stores.append(self._end(operand, name, offset))
        wanted = set().union(*map(names_in, stores))
        lines, names = needed_lines(self.writer.lines, wanted)
        return [*lines, *stores], names | wanted

    def _end(self, operand: RowOperand, name: str, offset: int) -> str:
        """What becomes of a gradient: it is written, or added to those of other rows."""
        if operand.is_common:
            return f"d{name}_total += d{name}"
        if operand.is_own:
            total = operand.columns * operand.parts
            return self.planner._store(f"d{operand.name}", f"d{name}", operand.columns, offset, total)
        return self.planner._store(f"d{name}_rows", f"d{name}", operand.columns)

    @cached_property
    def saved(self) -> list[RowOperand]:
        """Operands that are read again."""
        _, names = self._body
        operands = self.planner.form.operands
        return [o for o in operands if any(name in names for name, _ in self.planner._values(o))]

    @cached_property
    def saved_outputs(self) -> dict[str, str]:
        _, names = self._body
        return {value: name for value, name in self.cut.items() if value in names}

    @property
    def common_lines(self) -> tuple[str, ...]:
        return tuple(self.planner._load(o, o.name, 0) for o in self.saved if not o.place)

    @property
    def lines(self) -> tuple[str, ...]:
        body, names = self._body
        width = self.planner.form.width
        loads = [
            self.planner._load(operand, name, offset)
            for operand in self.saved
            if operand.place
            for name, offset in self.planner._values(operand)
            if name in names
        ]
        contiguous = [(value, name) for value, name in self.saved_outputs.items()]
        contiguous += [(name, name) for name in self.incoming if name in names]
        columns = self.planner.widths[width]
        loads += [
            f"{value} = tl.load({name}_ptr + row * {width} + {columns.column}{load_where(columns.mask)})"
            ".to(tl.float32)"
            for value, name in contiguous
        ]
        return (*loads, *body)

    @property
    def common(self) -> tuple[tuple[str, Columns | None], ...]:
        return tuple((o.name, self.planner.widths.get(o.columns)) for o in self.written if o.is_common)

    @property
    def row_lines(self) -> tuple[str, ...]:
        return tuple(filter(None, map(self.planner._row_line, self.saved)))

    @property
    def parameters(self) -> tuple[str, ...]:
        pointers = [*self.incoming, *self.saved_outputs.values(), *(o.name for o in self.saved)]
        pointers += [name for name, _ in self.tensors]
        strides = [name for operand in self.saved for name in self.planner._strides(operand)]
        return (*(f"{name}_ptr" for name in pointers), "rows", *strides)

    @property
    def arguments(self) -> tuple[str, ...]:
        strides = [text for operand in self.saved for text in self.planner._strides(operand).values()]
        return (
            *(f"{name}.contiguous()" for name in self.incoming),
            *self.saved_outputs.values(),
            *map(self.planner._argument, self.saved),
            *(name for name, _ in self.tensors),
            "rows",
            *strides,
        )

    @property
    def tensors(self) -> tuple[tuple[str, str], ...]:
        found: list[tuple[str, str]] = []
        for operand in self.written:
            if operand.is_own:
                found.append((f"d{operand.name}", f"_like({self.incoming[0]}, {self._shape(operand)})"))
            else:
                count, suffix = ("programs", "total") if operand.is_common else ("rows", "rows")
                where = f"dtype=torch.float32, device={self.incoming[0]}.device"
                made = f"torch.empty({count}, {operand.columns}, {where})"
                found.append((f"d{operand.name}_{suffix}", made))
        return tuple(found)

    @property
    def sums(self) -> tuple[tuple[str, str], ...]:
        return tuple((f"d{o.name}", self._sum(o)) for o in self.written if not o.is_own)

    def _sum(self, operand: RowOperand) -> str:
        """The gradient of what several rows read, of what each of them, or each program, has added up."""
        name = f"d{operand.name}_{'total' if operand.is_common else 'rows'}"
        if operand.place:
            count = operand.place.split()[-1]
            dim = 1 if "//" in operand.place else 0
            name = f"{name}.view(-1, {count}, {operand.columns}).sum({dim})"
        else:
            name = f"{name}.sum(0)"
        return f"{name}.to({self.incoming[0]}.dtype).view({self._shape(operand)})"

    def _shape(self, operand: RowOperand) -> str:
        """A tensor's dims; those that are open as a result's gradient has them."""
        leading = self.planner.form.leading
        dims = [
            f"{self.incoming[0]}.shape[{leading.index(dim)}]" if isinstance(dim, str) else str(dim)
            for dim in operand.shape
        ]
        return ", ".join(dims)

    @property
    def op(self) -> CustomOp:
        fused, outputs = self.planner.fused, [name for name, _ in self.planner.outputs]
        anchor = self.planner.anchor
        saved = (*self.saved_outputs.values(), *(operand.name for operand in self.saved))
        gradients = tuple(f"d{operand.name}" for operand in self.written)
        like = f"_like({anchor}, *{anchor}.shape[:-1], {self.planner.form.width})"
        return CustomOp(
            operands=fused.operands,
            outputs=tuple(outputs),
            fakes=(like,) * len(outputs),
            saved=saved,
            incoming=tuple(Argument(name) for name in (*self.incoming, *saved)),
            gradients=gradients,
            gradient_fakes=tuple(f"_like({self.incoming[0]}, {self._shape(o)})" for o in self.written),
            returned=tuple(self.given.get(o.name, f"d{o.name}") for o in self.planner.form.operands),
            remembered=(),
            anchor=anchor,
            plain=fused.plain,
        )


def _warps(block: int) -> int:
    """Enough threads to hold some rows of so many values in registers, 16 each."""
    return min(max(1, block // 512), _MOST_WARPS)
