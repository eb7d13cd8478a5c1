"""Plans for elementwise fusions: activations, gated or with a bias, and whatever else a rule spells out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from archc.codegen.code import Argument
from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.fused import Fused, block_of, power_of_two, width_of
from archc.codegen.kernels.linear.one_row import OneRow
from archc.codegen.kernels.masks import load_where
from archc.codegen.kernels.rows.pointwise import Pointwise, Writer, analyse
from archc.codegen.kernels.rows.pointwise_plan import PointwiseKernel
from archc.codegen.kernels.rows.row_writer import names_in
from archc.codegen.kernels.signature import Signature, as_named, contiguous, row_strides
from archc.codegen.native.native_kernel import plan_native_pointwise
from archc.ir.expr import Formula

_COLUMNS = (1024, 512, 256)  # at a time, before a linear map


def plan_pointwise(fused: Fused) -> PointwiseKernel:
    """The kernel of a rule of the pointwise family."""
    return _Planner(fused).kernel()


@dataclass(frozen=True)
class _Load:
    """A value as it lies in a row of its source, or several that are interleaved there."""

    names: tuple[str, ...]
    source: str
    offset: int = 0

    @property
    def interleaved(self) -> bool:
        return len(self.names) > 1

    @property
    def column(self) -> str:
        if self.interleaved:
            return "lane"
        return f"{self.offset} + column" if self.offset else "column"

    def masked(self, mask: str) -> str:
        """The arguments of a load or store that mask it, for interleaved values those of their lanes."""
        return mask.replace("inside", "lane_inside") if self.interleaved else mask


@dataclass(frozen=True)
class _Planner:
    """What the parts of a plan have in common."""

    fused: Fused

    @cached_property
    def formulas(self) -> Pointwise:
        return analyse(self.fused.form)

    @cached_property
    def width(self) -> int:
        return width_of(self.fused.node.types[0])

    @cached_property
    def block(self) -> int:
        return block_of(self.width)

    @cached_property
    def vectors(self) -> list[str]:
        """Operands that all rows share."""
        return [name for name, type_ in self.fused.types.items() if len(type_.shape) == 1]

    @cached_property
    def sources(self) -> list[str]:
        """Operands with rows."""
        return [name for name in self.fused.types if name not in self.vectors]

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.formulas.outputs)

    @cached_property
    def loads(self) -> list[_Load]:
        """Where each value lies: parts of a split follow one another in a row, or are interleaved."""
        loads: list[_Load] = []
        for value, name in self.formulas.leaves.items():
            node = self.fused.form.node(value)
            if name in self.vectors:
                continue
            if not node.inputs or node.inputs[0] is None:
                loads.append(_Load((name,), name))
                continue
            source = self.fused.form.name_of(node.inputs[0])
            if node.op.name == "split":
                loads.append(_Load((name,), source, value.output * self.width))
            elif value.output == 0:
                loads.append(_Load(tuple(self.formulas.leaves[part] for part in node.outputs), source))
        return loads

    @cached_property
    def forward(self) -> tuple[str, ...]:
        writer = Writer(taken={*self.formulas.leaves.values(), *self.sources}, names=self.formulas.names)
        for name, formula in self.formulas.outputs.items():
            writer.assign(name, formula)
        return tuple(writer.lines)

    @cached_property
    def twins(self) -> dict[str, str]:
        """For each vector the tensor of rows that has the same gradient row by row, "" for none."""
        same: dict[Formula, str] = {}
        for item in self.loads:
            for name in item.names:
                same.setdefault(self.formulas.gradients[name], f"d{name}" if name == item.source else "")
        return {vector: same.get(self.formulas.gradients[vector], "") for vector in self.vectors}

    @cached_property
    def row_gradients(self) -> list[str]:
        """Vectors whose gradient is written row by row, to be summed afterwards."""
        return [vector for vector in self.vectors if not self.twins[vector]]

    @cached_property
    def backward(self) -> tuple[str, ...]:
        names = {*self.formulas.leaves.values(), *(item.source for item in self.loads)}
        gradients = {f"d{name}" for name in (*names, *self.outputs)}
        writer = Writer(taken=names | gradients, names=self.formulas.gradient_names)
        for name in (*(name for item in self.loads for name in item.names), *self.row_gradients):
            writer.assign(f"d{name}", self.formulas.gradients[name])
        return tuple(writer.lines)

    @cached_property
    def gradient_tensors(self) -> tuple[tuple[str, str], ...]:
        first = self.sources[0]
        rows = f"_like({first}, *{first}.shape[:-1], {self.width})"
        return (
            *((f"d{name}", f"_like({name})") for name in self.sources),
            *((f"d{name}_rows", rows) for name in self.row_gradients),
        )

    def kernel(self) -> PointwiseKernel:
        op = self._custom_op()
        return PointwiseKernel(
            name=self.fused.name,
            equation=self.fused.equation,
            layout=self.fused.layout,
            op=op,
            width=self.width,
            block=self.block,
            interleaved=any(item.interleaved for item in self.loads),
            warps=max(1, self.block // 512),  # 16 bytes of bfloat16 a thread
            load_lines=self._load_lines(self.block, self.forward),
            load_lines_back=self._load_lines(self.block, self.backward),
            forward=self.forward,
            backward=self.backward,
            store_lines=self._store_lines(),
            row_lines=self._row_lines(self.sources),
            row_lines_back=self._row_lines({self.sources[0], *self._read(self.backward)}),
            gradient_tensors=self.gradient_tensors,
            vector_gradients=tuple((f"d{name}", self._sum_rows(name)) for name in self.vectors),
            signature=self._signature(),
            backward_signature=self._signature_back(),
            native=plan_native_pointwise(
                self.fused,
                op,
                list(self._elements()),
                self.forward,
                self.backward,
                {name: self.twins[name] or f"d{name}" for name in self.vectors},
            ),
            one_row=self._one_row(),
        )

    def _one_row(self) -> OneRow | None:
        """The function of one row that a linear map reads; None of several results."""
        if len(self.outputs) > 1:
            return None
        divisors = (block for block in _COLUMNS if self.width % block == 0)
        block = next(divisors, min(_COLUMNS[0], power_of_two(self.width)))
        result = self.outputs[0]
        # Zeros beside the row may have no finite result, and what they are multiplied by is zero.
        beside = (f"{result} = tl.where(inside, {result}, 0.0)",) if self.width % block else ()
        return OneRow(
            width=self.width,
            block=block,
            warps=max(1, block // 256),
            result=result,
            others=(),
            row_lines=self._row_lines(self.sources),
            pointers=(*self.sources, *self.vectors),
            arguments=tuple(map(self._given, (*self.sources, *self.vectors))),
            lines=(*self._load_lines(block, self.forward, alone=True), *self.forward, *beside),
            interleaved=any(item.interleaved for item in self.loads),
            template="linear_after_pointwise",
        )

    def _row_lines(self, names: Collection[str]) -> tuple[str, ...]:
        sources = (name for name in self.sources if name in names)
        return tuple(f"{name}_rows = _rows({name}, {self.fused.width(name)})" for name in sources)

    def _given(self, name: str) -> str:
        """What launches pass for an operand."""
        return f"{name}_rows" if name in self.sources else f"{name}.contiguous()"

    def _read(self, statements: Sequence[str]) -> list[str]:
        """The operands that some statements read, those with rows first."""
        names = names_in(" ".join(statements))
        sources = {item.source for item in self._loads_for(names)}
        vectors = [name for name in self.vectors if name in names]
        return [*(name for name in self.sources if name in sources), *vectors]

    def _loads_for(self, names: set[str]) -> list[_Load]:
        return [item for item in self.loads if not names.isdisjoint(item.names)]

    def _signature(self) -> Signature:
        return self._with_operands(self.forward, as_named(self.outputs))

    def _signature_back(self) -> Signature:
        incoming = [f"d{name}" for name in self.outputs]
        written = [name for name, _ in self.gradient_tensors]
        return self._with_operands(self.backward, contiguous(incoming) | as_named(written))

    def _with_operands(self, statements: Sequence[str], others: Mapping[str, str]) -> Signature:
        """A signature: the operands that are read come first, the strides of their rows last."""
        read = self._read(statements)
        given = {name: self._given(name) for name in read}
        return Signature.of({**given, **others}, row_strides(name for name in read if name in self.sources))

    def _elements(self) -> Iterator[tuple[str, str]]:
        """Each value, and its element of a tensor of contiguous rows."""
        for item in self.loads:
            row = f"{item.source}_ptr[row * {self.fused.width(item.source)} + "
            for place, name in enumerate(item.names):
                column = f"{len(item.names)} * column + {place}" if item.interleaved else item.column
                yield name, f"{row}{column}]"
        for vector in self.vectors:
            yield vector, f"{vector}_ptr[column]"

    def _load_lines(self, block: int, statements: Sequence[str], alone: bool = False) -> tuple[str, ...]:
        """What some statements read; `alone`: the row is the only one.

        Interleaved values are loaded as they lie, so that accesses stay wide, and parted in registers.
        """
        names = names_in(" ".join(statements))
        mask = load_where("inside" if self.width % block else "")
        lines: list[str] = []
        for item in self._loads_for(names):
            row = "" if alone else f"row * {item.source}_stride + "
            place = f"{item.source}_ptr + {row}{item.column}"
            name = item.source if item.interleaved else item.names[0]
            lines.append(f"{name} = tl.load({place}{item.masked(mask)}).to(tl.float32)")
            if item.interleaved:
                parts = f"tl.reshape({item.source}, {block}, {len(item.names)})"
                lines.append(f"{', '.join(item.names)} = tl.split({parts})")
        vectors = (name for name in self.vectors if name in names)
        lines += [f"{name} = tl.load({name}_ptr + column{mask}).to(tl.float32)" for name in vectors]
        return tuple(lines)

    def _store_lines(self) -> tuple[str, ...]:
        """The stores of gradients."""
        mask = ", mask=inside" if self.width % self.block else ""
        lines: list[str] = []
        for item in self.loads:
            place = f"d{item.source}_ptr + row * {self.fused.width(item.source)} + {item.column}"
            gradients = ", ".join(f"d{name}" for name in item.names)
            value = f"tl.interleave({gradients})" if item.interleaved else gradients
            lines.append(f"tl.store({place}, {value}{item.masked(mask)})")
        rows = [f"d{name}_rows_ptr + row * {self.width} + column, d{name}" for name in self.row_gradients]
        return (*lines, *(f"tl.store({row}{mask})" for row in rows))

    def _sum_rows(self, vector: str) -> str:
        rows = f"_rows({self.twins[vector] or f'd{vector}_rows'}, {self.width})"
        return f"{rows}.sum(0, dtype=torch.float32).to({vector}.dtype)"

    def _custom_op(self) -> CustomOp:
        anchor = self.sources[0]
        saved = (*self.sources, *self.vectors)
        gradients = tuple(f"d{name}" for name in self.fused.types)
        return CustomOp(
            operands=self.fused.operands,
            outputs=self.outputs,
            fakes=(f"_like({anchor}, *{anchor}.shape[:-1], {self.width})",) * len(self.outputs),
            saved=saved,
            incoming=tuple(Argument(name) for name in (*(f"d{name}" for name in self.outputs), *saved)),
            gradients=gradients,
            gradient_fakes=tuple(f"_like({name})" for name in self.fused.types),
            returned=gradients,
            remembered=(),
            anchor=anchor,
            plain=self.fused.plain,
        )
