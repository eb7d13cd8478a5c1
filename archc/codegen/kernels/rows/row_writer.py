"""The steps of a fusion of rows as statements of Triton, forward, and their gradient by the chain rule."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from archc.codegen.kernels.rows.pointwise import Writer, accumulate
from archc.codegen.kernels.rows.row_steps import ALONG, Ref, RowStep, RowSteps
from archc.ir.expr import INFIX, Expr, Formula, leaf
from archc.ir.names import unique
from archc.ir.op import OPS

_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*\b(?!=)")
_KEEPING_ZEROS = frozenset({"add", "sub", "mul", "neg"})


@dataclass
class RowWriter:
    """Writes steps, and their gradients, as statements of Triton.

    masks: what is inside of a row of so many columns, "" where all are
    """

    program: RowSteps
    masks: Mapping[int, str]
    lines: list[str] = field(default_factory=list)
    _writer: Writer = field(default_factory=Writer)
    _names: dict[Expr, str] = field(default_factory=dict)
    _clean: set[str] = field(default_factory=set)  # values that are 0 beside the row

    def __post_init__(self) -> None:
        gradients = [f"d{name}" for name in self.program.columns]
        self._writer = Writer(self.lines, {*self.program.columns, *gradients}, self._names)
        self._clean = self.program.columns.keys() - {step.name for step in self.program.steps}

    def forward(self, but: Sequence[str] = ()) -> None:
        """The steps, without those whose values are there."""
        for step in self.program.steps:
            if step.name not in but:
                self._step(step)
            self._clean |= {step.name} if step.name in but else set()

    def is_clean(self, name: str) -> bool:
        """Whether a value is 0 beside the row."""
        return name in self._clean

    def _step(self, step: RowStep) -> None:
        if step.op in ALONG:
            self.lines.append(f"{step.name} = {self._along(step)}")
        else:
            self.assign(step.name, Expr(step.op, tuple(map(_formula, step.inputs))))
        if step.op == "centred" or (step.op in _KEEPING_ZEROS and self._keeps_zeros(step)):
            self._clean.add(step.name)

    def _along(self, step: RowStep) -> str:
        (x,) = map(str, step.inputs)
        columns = self.program.columns[x]
        if step.op == "sum":
            return self._sum(x, x, columns)
        if step.op == "rstd":
            return f"1.0 / tl.sqrt({self._sum(f'{x} * {x}', x, columns)} / {columns} + {step.eps})"
        centred = f"{x} - {self._sum(x, x, columns)} / {columns}"
        mask = self.masks[columns]
        return f"tl.where({mask}, {centred}, 0.0)" if mask else centred

    def _sum(self, text: str, name: str, columns: int) -> str:
        mask = "" if name in self._clean else self.masks[columns]
        return f"tl.sum(tl.where({mask}, {text}, 0.0), 0)" if mask else f"tl.sum({text}, 0)"

    def _keeps_zeros(self, step: RowStep) -> bool:
        wide = [ref for ref in step.inputs if self._columns(ref) > 1]
        sums = step.op in ("add", "sub")
        return all(ref in self._clean for ref in wide) and not (sums and len(wide) < len(step.inputs))

    def _columns(self, ref: Ref) -> int:
        return self.program.columns[ref] if isinstance(ref, str) else 1

    def assign(self, name: str, formula: Formula) -> None:
        if isinstance(formula, Expr) and formula.op not in (*INFIX, "neg", "leaf"):
            self._names[formula] = name
            self._writer.taken.discard(name)
        self._writer.assign(name, formula)

    def backward(self) -> dict[str, Formula]:
        """The gradients of operands and their parts, given those of results as `d` and their names."""
        gradients: dict[str, Formula] = {}
        ends = [name for name, _ in self.program.outputs]
        for name, value in self.program.outputs:
            accumulate(gradients, value, leaf(f"d{name}"))
        for step in reversed(self.program.steps):
            incoming = gradients.pop(step.name, None)
            if incoming is None:
                continue
            if not (isinstance(incoming, Expr) and incoming.op == "leaf"):
                name = f"d{step.name}"
                name = self._name(f"{name}_whole") if step.name in ends else name
                self.assign(name, incoming)
                incoming = leaf(name)
            for ref, part in self._parts(step, incoming):
                if isinstance(ref, str):
                    accumulate(gradients, ref, self._summed(ref, step, part))
        return gradients

    def _parts(self, step: RowStep, incoming: Expr) -> Iterator[tuple[Ref, Formula]]:
        """What a step adds to the gradient of each of its inputs."""
        if step.op == "sum":
            yield step.inputs[0], incoming
        elif step.op == "rstd":
            (x,) = step.inputs
            rstd, count = leaf(step.name), float(self._columns(x))
            yield x, _formula(x) * (-(incoming * rstd * rstd * rstd) / count)
        elif step.op == "centred":
            (x,) = step.inputs
            level = self._name(f"d{step.name}_mean")
            text = self._sum(str(incoming.args[0]), "", step.columns)
            self.lines.append(f"{level} = {text} / {step.columns}")
            yield x, incoming - leaf(level)
        else:
            for place, part in OPS[step.op].gradients(incoming, [_formula(ref) for ref in step.inputs]):
                yield step.inputs[place], part

    def _summed(self, ref: str, step: RowStep, part: Formula) -> Formula:
        """The gradient of one number, of what each column of a step adds to it."""
        if self.program.columns[ref] > 1 or step.columns == 1 or step.op in ("sum", "rstd"):
            return part
        name = self._name(f"d{ref}_sum")
        text = self._writer.text(part)
        self.lines.append(f"{name} = {self._sum(text, '', step.columns)}")
        return leaf(name)

    def _name(self, name: str) -> str:
        name = unique(name, self._writer.taken)
        self._writer.taken.add(name)
        return name


def _formula(ref: Ref) -> Formula:
    return leaf(ref) if isinstance(ref, str) else ref


def names_in(text: str) -> set[str]:
    """The variables of a statement: not what follows a dot, nor the names of arguments."""
    return set(_NAME.findall(text))


def needed_lines(lines: Sequence[str], wanted: Iterable[str] = ()) -> tuple[list[str], set[str]]:
    """The statements that some names follow from, in order, and all names that these read.

    Those that assign to no variable, such as stores, are needed in any case.
    """
    kept: list[str] = []
    names = set(wanted)
    for line in reversed(lines):
        name, _, text = line.partition(" = ")
        if name in names or not name.isidentifier():
            kept.append(line)
            names |= names_in(text or line)
    return kept[::-1], names
