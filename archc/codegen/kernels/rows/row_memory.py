"""Where a kernel of rows finds its operands in memory, and how it reads and writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from archc.codegen.kernels.fused import power_of_two
from archc.codegen.kernels.masks import load_where, store_where
from archc.codegen.kernels.rows.row_plan import Columns
from archc.ir.row_form import EACH, RowForm, RowOperand


@dataclass(frozen=True)
class RowMemory:
    """The operands of a form.

    parts: the values that one is split into, by its name
    alone: whether there is a single row
    """

    form: RowForm
    parts: Mapping[str, Sequence[str]]
    alone: bool = False

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

    def values(self, operand: RowOperand) -> Iterator[tuple[str, int]]:
        """The values that an operand is read as, and where in its row each starts."""
        parts = self.parts.get(operand.name, [operand.name])
        for number, name in enumerate(parts):
            yield name, number * operand.columns

    def load(self, operand: RowOperand, name: str, offset: int) -> str:
        columns = self.widths.get(operand.columns)
        place = [f"{operand.name}_ptr", *self._row_terms(operand), *([str(offset)] if offset else [])]
        place += [columns.column] if columns else []
        mask = load_where(columns.mask) if columns else ""
        return f"{name} = tl.load({' + '.join(place)}{mask}).to(tl.float32)"

    def _row_terms(self, operand: RowOperand) -> list[str]:
        """Where a row of an operand starts, as terms of a sum."""
        if self.alone:
            return []
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

    def strides(self, operand: RowOperand) -> dict[str, str]:
        """Parameters for the strides of an operand, and their arguments."""
        if operand.is_own and self.form.heads > 1:
            rows = f"{operand.name}_rows.stride"
            return {f"{operand.name}_stride": f"{rows}(0)", f"{operand.name}_head": f"{rows}(1)"}
        if operand.is_own or "//" in operand.place:
            return {f"{operand.name}_stride": f"{operand.name}_rows.stride(0)"}
        return {}

    def row_line(self, operand: RowOperand) -> str:
        """The statement that gives an operand's rows their strides, "" where it needs none."""
        name, columns = operand.name, operand.columns * operand.parts
        if not self.strides(operand):
            return ""
        if operand.is_own and self.form.heads > 1:
            return f"{name}_rows = _heads({name}, {self.form.heads}, {columns})"
        return f"{name}_rows = _rows({name}, {columns})"

    def argument(self, operand: RowOperand) -> str:
        return f"{operand.name}_rows" if self.strides(operand) else f"{operand.name}.contiguous()"

    def given(self, operands: Iterable[RowOperand]) -> dict[str, str]:
        """What a launch gives for operands, by their names."""
        return {operand.name: self.argument(operand) for operand in operands}

    def numbers(self, operands: Iterable[RowOperand]) -> dict[str, str]:
        """Parameters for the strides of operands, and for how many rows a sequence has; their arguments."""
        operands = list(operands)
        strides = {name: text for operand in operands for name, text in self.strides(operand).items()}
        shared = [operand.name for operand in operands if operand.is_of_sequence]
        return strides | ({EACH: f"rows // len({shared[0]}_rows)"} if shared else {})

    def store(self, pointer: str, value: str, columns: int, offset: int = 0, total: int = 0) -> str:
        """The statement that writes one row of a contiguous tensor."""
        known = self.widths.get(columns)
        place = [f"{pointer}_ptr", f"row * {total or columns}" if (total or columns) > 1 else "row"]
        place += [str(offset)] if offset else []
        mask = store_where(known.mask) if known else ""
        return f"tl.store({' + '.join([*place, *([known.column] if known else [])])}, {value}{mask})"

    def load_result(self, name: str, value: str, columns: int) -> str:
        """The statement that reads a row, or a number of it, of a contiguous tensor that is as a result."""
        known = self.widths[columns] if columns > 1 else None
        place = f"row * {columns} + {known.column}{load_where(known.mask)}" if known else "row"
        return f"{value} = tl.load({name}_ptr + {place}).to(tl.float32)"

    def element(self, operand: RowOperand, name: str, offset: int) -> tuple[str, str]:
        """A value, and its element of a contiguous tensor."""
        total = operand.columns * operand.parts
        row = operand.place.replace("//", "/")
        terms = [f"({row}) * {total}" if " " in row else f"{row} * {total}"] if row else []
        terms += [str(offset)] if offset else []
        terms += ["column"] if operand.columns > 1 else []
        return name, f"{operand.name}_ptr[{' + '.join(terms) or '0'}]"
