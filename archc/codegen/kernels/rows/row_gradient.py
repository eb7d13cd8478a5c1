"""The gradient of a kernel of rows: what it reads, what it computes, and where it writes the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from archc.codegen.code import Argument
from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.fused import Fused
from archc.codegen.kernels.rows.row_memory import RowMemory
from archc.codegen.kernels.rows.row_plan import Columns
from archc.codegen.kernels.rows.row_writer import RowWriter, names_in, needed_lines
from archc.codegen.kernels.signature import Signature, as_named, contiguous
from archc.ir.expr import Expr, Formula
from archc.ir.row_form import RowOperand


@dataclass(frozen=True)
class RowGradient:
    """What the gradient's kernel reads, computes and writes.

    anchor:    the operand whose device and dtype are those of the results
    writer:    has written the forward pass, and its gradient
    gradients: of operands and of their parts
    cut:       values that are read as results, and their names there
    """

    fused: Fused
    memory: RowMemory
    outputs: Sequence[tuple[str, str]]
    anchor: str
    writer: RowWriter
    gradients: dict[str, Formula]
    cut: dict[str, str]

    @cached_property
    def incoming(self) -> list[str]:
        return [f"d{name}" for name, _ in self.outputs]

    @cached_property
    def columns(self) -> dict[str, int]:
        """How many values a program reads of each result, and of what comes in for it."""
        results = zip(self.outputs, self.memory.form.results, strict=True)
        return {each: result.columns for (name, _), result in results for each in (name, f"d{name}")}

    @cached_property
    def like(self) -> str:
        """What comes in for the first result that is rows."""
        return self.incoming[self.memory.form.whole]

    @cached_property
    def given(self) -> dict[str, str]:
        """Operands whose gradient equals one that comes in, or another operand's; the name of that."""
        found: dict[str, str] = {}
        width = self.memory.form.width
        rows = [name for name in self.incoming if self.columns[name] == width]
        made: dict[Formula, str] = {}
        for operand in self.memory.form.operands:
            whole = operand.is_own and operand.parts == 1 and operand.columns == width
            formula = self.gradients.get(operand.name, 0.0)
            if not whole or not isinstance(formula, Expr):
                continue
            text = str(formula.args[0])
            if formula.op == "leaf" and text in rows:
                found[operand.name] = text
            elif formula in made:
                found[operand.name] = made[formula]
            else:
                made[formula] = f"d{operand.name}"
        everything = len(found) == len(self.memory.form.operands)
        return {} if everything else found

    @cached_property
    def written(self) -> list[RowOperand]:
        return [operand for operand in self.memory.form.operands if operand.name not in self.given]

    @cached_property
    def _body(self) -> tuple[list[str], set[str]]:
        """Statements from loads to stores but the loads, and all names in them."""
        stores: list[str] = []
        for operand in self.written:
            for name, offset in self.memory.values(operand):
                value = self._value(f"d{name}", self.gradients.get(name, 0.0))
                stores.append(self._end(operand, name, value, offset))
        wanted = set().union(*map(names_in, stores))
        lines, names = needed_lines(self.writer.lines, wanted)
        return [*lines, *stores], names | wanted

    def _value(self, name: str, gradient: Formula) -> str:
        """The variable that a gradient is in: where it has none yet, it is computed under this name."""
        if isinstance(gradient, Expr) and gradient.op == "leaf":
            return str(gradient.args[0])
        self.writer.assign(name, gradient)
        return name

    def _end(self, operand: RowOperand, name: str, value: str, offset: int) -> str:
        """What becomes of a gradient: it is written, or added to those of other rows."""
        if operand.is_common:
            return f"d{name}_total += {value}"
        if operand.is_own:
            total = operand.columns * operand.parts
            return self.memory.store(f"d{operand.name}", value, operand.columns, offset, total)
        return self.memory.store(f"d{name}_rows", value, operand.columns)

    @cached_property
    def saved(self) -> list[RowOperand]:
        """Operands that are read again."""
        _, names = self._body
        operands = self.memory.form.operands
        return [o for o in operands if any(name in names for name, _ in self.memory.values(o))]

    @cached_property
    def saved_outputs(self) -> dict[str, str]:
        _, names = self._body
        return {value: name for value, name in self.cut.items() if value in names}

    @property
    def _incoming_read(self) -> list[str]:
        """What comes in and has a part in what is computed; the rest is handed on, if anything."""
        _, names = self._body
        return [name for name in self.incoming if name in names]

    @property
    def common_lines(self) -> tuple[str, ...]:
        return tuple(self.memory.load(o, o.name, 0) for o in self.saved if not o.place)

    @property
    def lines(self) -> tuple[str, ...]:
        body, names = self._body
        loads = [
            self.memory.load(operand, name, offset)
            for operand in self.saved
            if operand.place
            for name, offset in self.memory.values(operand)
            if name in names
        ]
        contiguous = [(value, name) for value, name in self.saved_outputs.items()]
        contiguous += [(name, name) for name in self._incoming_read]
        loads += [self.memory.load_result(name, value, self.columns[name]) for value, name in contiguous]
        return (*loads, *body)

    @property
    def common(self) -> tuple[tuple[str, Columns | None], ...]:
        return tuple((o.name, self.memory.widths.get(o.columns)) for o in self.written if o.is_common)

    @property
    def row_lines(self) -> tuple[str, ...]:
        return tuple(filter(None, map(self.memory.row_line, self.saved)))

    @property
    def signature(self) -> Signature:
        read = contiguous(self._incoming_read) | as_named(self.saved_outputs.values())
        read |= self.memory.given(self.saved) | as_named(name for name, _ in self.tensors)
        return Signature.of(read, {"rows": "rows"} | self.memory.numbers(self.saved))

    @property
    def tensors(self) -> tuple[tuple[str, str], ...]:
        found: list[tuple[str, str]] = []
        for operand in self.written:
            if operand.is_own:
                found.append((f"d{operand.name}", self._empty(operand)))
            else:
                count, suffix = ("programs", "total") if operand.is_common else ("rows", "rows")
                made = _float32(self.like, f"{count}, {operand.columns}")
                found.append((f"d{operand.name}_{suffix}", made))
        return tuple(found)

    @property
    def sums(self) -> tuple[tuple[str, str], ...]:
        return tuple((f"d{o.name}", self._sum(o)) for o in self.written if not o.is_own)

    def _sum(self, operand: RowOperand) -> str:
        """The gradient of what several rows read: the sum of what each row, or each program, has added."""
        name = f"d{operand.name}_{'total' if operand.is_common else 'rows'}"
        if operand.is_of_sequence:
            name = f"{name}.view({self._leading}, {operand.columns}).flatten(1, -2).sum(1)"
        elif operand.place:
            count = operand.place.split()[-1]
            dim = 1 if "//" in operand.place else 0
            name = f"{name}.view(-1, {count}, {operand.columns}).sum({dim})"
        else:
            name = f"{name}.sum(0)"
        cast = f".to({like}.dtype)" if (like := self._alike(operand)) else ""
        return f"{name}{cast}.view({self._shape(operand)})"

    def _empty(self, operand: RowOperand) -> str:
        """An empty tensor for the gradient of an operand."""
        if like := self._alike(operand):
            return f"_like({like}, {self._shape(operand)})"
        return _float32(self.like, self._shape(operand))

    def _alike(self, operand: RowOperand) -> str:
        """A tensor of the dtype that a gradient has; "" where that is float32.

        It is float32, too, where no tensor of the operand's dtype is read again: PyTorch rounds it then.
        """
        if operand.wide:
            return ""
        results = zip(self.incoming, self.memory.form.results, strict=True)
        if narrow := [name for name, result in results if not result.wide]:
            return narrow[0]
        return next((saved.name for saved in self.saved if not saved.wide), "")

    def _shape(self, operand: RowOperand) -> str:
        """A tensor's dims; those that are open as a result's gradient has them."""
        leading, given = self.memory.form.leading, f"{self.like}.shape"
        if operand.is_own:  # after a head there are rows alone, [B * T, width]
            return ", ".join([self._leading, *map(str, operand.shape[len(leading) :])])
        dims = [
            f"{given}[{leading.index(dim)}]" if isinstance(dim, str) else str(dim) for dim in operand.shape
        ]
        return ", ".join(dims)

    @property
    def _leading(self) -> str:
        """The dims before those of a row, as a result's gradient has them; a row of one may be a number."""
        form = self.memory.form
        return f"*{self.like}.shape" + ("[:-1]" if form.results[form.whole].dims else "")

    @property
    def op(self) -> CustomOp:
        outputs, anchor = [name for name, _ in self.outputs], self.anchor
        saved = (*self.saved_outputs.values(), *(operand.name for operand in self.saved))
        gradients = tuple(f"d{operand.name}" for operand in self.written)
        form = self.memory.form
        has_columns = next(form.has_columns(each) for each in form.operands if each.name == anchor)
        leading = f"*{anchor}.shape{'[:-1]' if has_columns else ''}"
        shapes = [", ".join([leading, *map(str, result.dims)]) for result in form.results]
        return CustomOp(
            operands=self.fused.operands,
            outputs=tuple(outputs),
            fakes=tuple(
                _float32(anchor, shape) if result.wide else f"_like({anchor}, {shape})"
                for result, shape in zip(form.results, shapes, strict=True)
            ),
            saved=saved,
            incoming=tuple(Argument(name) for name in (*self.incoming, *saved)),
            gradients=gradients,
            gradient_fakes=tuple(map(self._empty, self.written)),
            returned=tuple(self.given.get(o.name, f"d{o.name}") for o in self.memory.form.operands),
            remembered=(),
            anchor=anchor,
            plain=self.fused.plain,
        )


def _float32(like: str, shape: str) -> str:
    """An empty tensor in float32 on another's device."""
    return f"torch.empty({shape}, dtype=torch.float32, device={like}.device)"
