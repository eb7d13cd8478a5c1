"""The choice of experts as Triton: a token's scores in registers, its decomposition step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from archc.codegen.kernels.fused import Fused, power_of_two
from archc.codegen.kernels.helpers import MATH
from archc.codegen.kernels.rows.pointwise import Writer
from archc.ir.expr import INFIX, Expr, leaf
from archc.ir.names import unique
from archc.ir.node import Node, Value
from archc.ir.op import OPS, Trait
from archc.ir.ops.structure import CONSTANT, INPUT
from archc.ir.types import DType, TensorType

_SHORT = {
    "top_k": "values",
    "sum": "total",
    "softmax": "share",
    "div": "part",
    "mul": "product",
    "add": "shifted",
}
_LEAST = 'float("-inf")'
# What the statements below call their own: a value of a spec with such a name gets another one.
_OWN = "row float32 tl n left best place group own grouped judged largest first ahead kept"
CASTS = ("upcast", "cast_like", "upcast_like")  # in registers all is float32 already


@dataclass
class RouterWriter:
    """Writes a decomposition as Triton.

    names:  the text of each value: a vector along a block, or one of the `numbers`
    blocks: by the length of rows, the name of the vector that counts along it
    loaded: the operands that are read
    seen:   by the node of a mask of groups, which scores it lets pass
    """

    fused: Fused
    lines: list[str] = field(default_factory=list)
    names: dict[Value, str] = field(default_factory=dict)
    blocks: dict[int, str] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    numbers: set[Value] = field(default_factory=set)
    seen: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.taken |= {*_OWN.split(), *MATH}
        self.arithmetic = Writer(self.lines, self.taken)
        for node in self.fused.form.nodes():
            if node.op is CONSTANT:
                self.names[node.outputs[0]] = repr(float(node.attributes["value"]))
            of_numbers = node.op.has(Trait.ELEMENTWISE) and set(node.inputs) <= self.numbers
            if node.op in (CONSTANT, OPS["sum"]) or of_numbers or self._is_cast_of_number(node):
                self.numbers |= set(node.outputs)

    def _is_cast_of_number(self, node: Node) -> bool:
        return node.op.name in CASTS and node.first in self.numbers

    def write(self) -> list[str]:
        """The statements of the choice, its results stored."""
        form = self.fused.form
        for node in form.nodes():
            if node.op not in (CONSTANT, INPUT):
                self._step(node)
        for (_, value), name in zip(form.outputs, self.fused.rule.output_names, strict=True):
            self._store(value, name)
        return self.lines

    def _read(self, value: Value) -> str:
        """The text of a value; an operand is loaded when it is first read."""
        if value not in self.names:
            type_, name = self.fused.form.type(value), self.fused.form.name_of(value)
            block = self._block(type_)
            place = block if len(type_.shape) == 1 else f"row * {type_.width} + {block}"
            loaded = self._fresh(name)
            mask = self._mask(type_, ", other=0.0")
            widened = ".to(tl.float32)" if type_.dtype.is_floating else ""
            self.lines.append(f"{loaded} = tl.load({name}_ptr + {place}{mask}){widened}")
            self.loaded.append(name)
            self.names[value] = loaded
        return self.names[value]

    def _block(self, type_: TensorType) -> str:
        """The lanes of a row: as many as the next power of two."""
        lanes = power_of_two(int(type_.width))
        if lanes not in self.blocks:
            self.blocks[lanes] = self._fresh(f"lane_{lanes}" if self.blocks else "lane")
        return self.blocks[lanes]

    def _inside(self, type_: TensorType, text: str, other: str) -> str:
        """A vector whose lanes beyond the row's end hold another value."""
        width = int(type_.width)
        if width == power_of_two(width):
            return text
        return f"tl.where({self._block(type_)} < {width}, {text}, {other})"

    def _mask(self, type_: TensorType, other: str = "") -> str:
        """The arguments of an access to a row, where its block is longer."""
        width = int(type_.width)
        return f", mask={self._block(type_)} < {width}{other}" if width != power_of_two(width) else ""

    def _fresh(self, wanted: str) -> str:
        name = unique(wanted, self.taken)
        self.taken.add(name)
        return name

    def _let(self, value: Value, text: str) -> str:
        op = self.fused.form.node(value).op.name
        name = self._fresh(self.fused.form.name_of(value) or _SHORT.get(op, op))
        self.lines.append(f"{name} = {text}")
        self.names[value] = name
        return name

    def _step(self, node: Node) -> None:
        written = getattr(self, f"_of_{node.op.name}", None)
        if node.op.name in CASTS:
            self.names[node.outputs[0]] = self._read(node.first)
        elif written is not None:
            written(node)
        else:
            self._elementwise(node)

    def _elementwise(self, node: Node) -> None:
        operands = [self._read(value) for value in node.operands]
        op = OPS[node.op.name]
        assert op.triton is not None
        names = dict(zip((operand.name for operand in op.operands), operands, strict=True))
        infix = INFIX.get(node.op.name)
        name = self._let(node.outputs[0], f" {infix} ".join(operands) if infix else op.triton.format(**names))
        self.arithmetic.know(Expr(node.op.name, tuple(map(leaf, operands))), name)

    def _of_softmax(self, node: Node) -> None:
        type_ = self.fused.form.type(node.outputs[0])
        x = self._read(node.first)
        inside = self._inside(type_, x, _LEAST)
        if inside != x:
            x, text = self._fresh("inside"), inside
            self.lines.append(f"{x} = {text}")
        power = self._fresh("power")
        self.lines.append(f"{power} = tl.exp({x} - tl.max({x}, 0))")
        self._let(node.outputs[0], f"{power} / tl.sum({power}, 0)")

    def _of_sum(self, node: Node) -> None:
        type_ = self.fused.form.type(node.first)
        self._let(node.outputs[0], f"tl.sum({self._inside(type_, self._read(node.first), '0.0')}, 0)")

    def _of_top_k(self, node: Node) -> None:
        """One after the other: the largest of those left, the first where several are."""
        scores, type_ = self._read(node.first), self.fused.form.type(node.first)
        lane, rank = self._block(type_), self._block(node.types[0])
        values = self._fresh(self.fused.form.name_of(node.outputs[0]) or "values")
        places = self._fresh(self.fused.form.name_of(node.outputs[1]) or "places")
        self.names.update(zip(node.outputs, (values, places), strict=True))
        size, count = power_of_two(int(node.types[0].width)), int(node.types[0].width)
        self.lines += [
            f"{values} = tl.zeros([{size}], tl.float32)",
            f"{places} = {self._unchosen(size)}",
            f"left = {lane} < {int(type_.width)}",
            f"for n in range({count}):",
            f"    best = tl.max(tl.where(left, {scores}, {_LEAST}), 0)",
            f"    place = tl.min(tl.where(left & ({scores} == best), {lane}, {int(type_.width) - 1}), 0)",
            f"    {values} = tl.where({rank} == n, best, {values})",
            f"    {places} = tl.where({rank} == n, place, {places})",
            f"    left = left & ({lane} != place)",
        ]

    def _unchosen(self, size: int) -> str:
        """What lanes beyond the last choice start with; none of them is stored."""
        return f"tl.zeros([{size}], tl.int32)"

    def _of_gather(self, node: Node) -> None:
        x, index = map(self._read, node.operands)
        self._let(node.outputs[0], self._gathered(x, index, self.fused.form.type(node.first)))

    def _gathered(self, x: str, index: str, type_: TensorType) -> str:
        """The values of a row at places."""
        lane, zero = self._block(type_), "0.0" if type_.dtype.is_floating else "0"
        return f"tl.sum(tl.where({index}[:, None] == {lane}[None, :], {x}[None, :], {zero}), 1)"

    def _of_group_mask(self, node: Node) -> None:
        """A group's rank is how many are better; groups along rows, scores along columns."""
        x, type_ = self._read(node.first), self.fused.form.type(node.first)
        groups, lane, width = int(node.attributes["groups"]), self._block(type_), int(type_.width)
        size, block = width // groups, power_of_two(groups)
        fill = "0.0" if node.attributes["fill"] == "zero" else _LEAST
        self.lines += [
            f"group = tl.arange(0, {block})",
            f"own = ({lane}[None, :] // {size} == group[:, None]) & ({lane} < {width})[None, :]",
            f"grouped = tl.where(own, {x}[None, :], {_LEAST})",
            "judged = tl.max(grouped, 1)",
        ]
        if node.attributes["score"] == "sum_top_two":
            self.lines += [
                "largest = own & (grouped == judged[:, None])",
                f"first = tl.min(tl.where(largest, {lane}[None, :], {width}), 1)",
                f"judged += tl.max(tl.where({lane}[None, :] == first[:, None], {_LEAST}, grouped), 1)",
            ]
        if block != groups:
            self.lines.append(f"judged = tl.where(group < {groups}, judged, {_LEAST})")
        self.lines += [
            "ahead = (group[None, :] < group[:, None]) & (judged[None, :] == judged[:, None])",
            "ahead = ahead | (judged[None, :] > judged[:, None])",
            f"kept = tl.sum(ahead.to(tl.int32), 1) < {int(node.attributes['keep'])}",
        ]
        seen = self.seen[node.id] = self._fresh("seen")
        self.lines.append(f"{seen} = tl.sum((own & kept[:, None]).to(tl.int32), 0) > 0")
        self._let(node.outputs[0], f"tl.where({seen}, {x}, {fill})")

    def _of_loads(self, node: Node) -> None:
        """How many of the choices are an expert's."""
        chosen, type_ = self._read(node.first), self.fused.form.type(node.first)
        match = f"{chosen}[:, None] == {self._block(node.types[0])}[None, :]"
        if type_.width != power_of_two(int(type_.width)):
            match = f"({match}) & ({self._block(type_)} < {type_.width})[:, None]"
        self._let(node.outputs[0], f"tl.sum(tl.where({match}, 1.0, 0.0), 0)")

    def _of_unless_zero(self, node: Node) -> None:
        chosen, weights = map(self._read, node.operands)
        self._let(node.outputs[0], f"tl.where({weights} != 0, {chosen}, -1)")

    def _of_concat(self, node: Node) -> None:
        """Rows side by side: each lane has the value of the row that it lies in."""
        type_ = node.types[0]
        rows = [(self._along(value, type_, first), first) for value, first in self._parts(node)]
        text = rows[-1][0]
        for (earlier, _), (_, end) in zip(rows[-2::-1], rows[:0:-1], strict=True):
            text = f"tl.where({self._block(type_)} < {end}, {earlier}, {text})"
        self._let(node.outputs[0], text)

    def _parts(self, node: Node) -> Iterator[tuple[Value, int]]:
        """The rows that a node puts side by side, and the column that each begins at."""
        first = 0
        for value in node.operands:
            yield value, first
            first += int(self.fused.form.type(value).width)

    def _of_with_shared(self, node: Node) -> None:
        self._with_more(node, f"{self._block(node.types[0])} + {node.attributes['first'] - self._own(node)}")

    def _of_with_ones(self, node: Node) -> None:
        self._with_more(node, "1.0")

    def _with_more(self, node: Node, more: str) -> None:
        """A row, and after it something else."""
        type_ = node.types[0]
        row = self._along(node.first, type_, 0)
        self._let(node.outputs[0], f"tl.where({self._block(type_)} < {self._own(node)}, {row}, {more})")

    def _own(self, node: Node) -> int:
        """The width of what a node reads."""
        return int(self.fused.form.type(node.first).width)

    def _along(self, value: Value, longer: TensorType, first: int) -> str:
        """A row along the lanes of a longer one, from lane `first`; what other lanes have does not matter."""
        text, type_ = self._read(value), self.fused.form.type(value)
        own, lanes = (power_of_two(int(each.width)) for each in (type_, longer))
        if own == 1 or (own == lanes and not first):
            return text
        lane = self._block(longer)
        place = f"({lane} - {first})[:, None]" if first else f"{lane}[:, None]"
        zero = "0.0" if type_.dtype.is_floating else "0"
        match = f"{place} == {self._block(type_)}[None, :]"
        return f"tl.sum(tl.where({match}, {text}[None, :], {zero}), 1)"

    def _store(self, value: Value, name: str) -> None:
        type_ = self.fused.form.type(value)
        text = f"{self._read(value)}.to(tl.int64)" if type_.dtype is DType.I64 else self._read(value)
        width = int(type_.width)
        if value in self.numbers:
            self.lines.append(f"tl.store({name}_ptr + row, {text})")
            return
        block = self._block(type_)
        self.lines.append(f"tl.store({name}_ptr + row * {width} + {block}, {text}{self._mask(type_)})")
