"""The kernel that chooses experts: a token's scores in registers, its decomposition step by step."""

from __future__ import annotations

from dataclasses import dataclass, field

from archc.codegen.fused import Fused, power_of_two
from archc.codegen.router_plan import RouterKernel
from archc.ir.graph import Node, Value
from archc.ir.op import OPS
from archc.ir.ops.structure import CONSTANT, INPUT
from archc.ir.types import DType, TensorType

_SHORT = {"sum": "total", "softmax": "share", "div": "part", "mul": "product", "add": "shifted"}
_LEAST = 'float("-inf")'
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


def plan_router(fused: Fused) -> RouterKernel:
    """The kernel of a rule of the router family."""
    writer = _Writer(fused)
    lines = writer.write()
    rows = next(name for name, type_ in fused.types.items() if len(type_.shape) > 1 and name in writer.loaded)
    return RouterKernel(
        name=fused.name,
        equation=fused.equation,
        layout=fused.layout,
        operands=fused.operands,
        loaded=tuple(writer.loaded),
        blocks=tuple((name, power_of_two(length)) for length, name in writer.blocks.items()),
        lines=tuple(lines),
        outputs=tuple(
            (name, _allocation(rows, type_, fused))
            for name, type_ in zip(fused.rule.output_names, fused.node.types, strict=True)
        ),
        rows=rows,
        plain=fused.plain,
    )


def _allocation(rows: str, type_: TensorType, fused: Fused) -> str:
    """An empty tensor for an output: int64, float32, or of the dtype of an operand that has the model's."""
    if type_.dtype is DType.FLOAT:
        like = next(name for name, each in fused.types.items() if each.dtype is DType.FLOAT)
        kind = f"{like}.dtype"
    else:
        kind = {DType.I64: "torch.int64", DType.F32: "torch.float32"}[type_.dtype]
    return f"torch.empty(*{rows}.shape[:-1], {type_.width}, dtype={kind}, device={rows}.device)"


@dataclass
class _Writer:
    """Writes a decomposition as Triton.

    names:  the text of each value: a vector along a block, or one of the `numbers`
    blocks: by the length of rows, the name of the vector that counts along it
    loaded: the operands that are read
    """

    fused: Fused
    lines: list[str] = field(default_factory=list)
    names: dict[Value, str] = field(default_factory=dict)
    blocks: dict[int, str] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    numbers: set[Value] = field(default_factory=set)

    def write(self) -> list[str]:
        form = self.fused.form
        outputs = dict(zip((value for _, value in form.outputs), self.fused.rule.output_names, strict=True))
        self.taken |= {"row", "float32"}
        for node in form.nodes():
            if node.op is CONSTANT:
                self.names[node.outputs[0]] = repr(float(node.attributes["value"]))
                self.numbers.add(node.outputs[0])
            elif node.op is not INPUT:
                self._step(node)
        for _, value in form.outputs:
            self._store(value, outputs[value])
        return self.lines

    # ------------------------------------------------------------------ values

    def _read(self, value: Value | None) -> str:
        """The text of a value; an operand is loaded when it is first read."""
        assert value is not None
        if value not in self.names:
            type_, name = self.fused.form.type(value), self.fused.form.name_of(value)
            block = self._block(type_)
            place = block if len(type_.shape) == 1 else f"row * {type_.width} + {block}"
            loaded = self._fresh(name)
            mask = self._mask(type_, ", other=0.0")
            self.lines.append(f"{loaded} = tl.load({name}_ptr + {place}{mask}).to(tl.float32)")
            self.loaded.append(name)
            self.names[value] = loaded
        return self.names[value]

    def _block(self, type_: TensorType) -> str:
        width = int(type_.width)
        if width not in self.blocks:
            wanted = "lane" if not self.blocks else f"lane_{width}"
            self.blocks[width] = self._fresh(wanted)
        return self.blocks[width]

    def _inside(self, type_: TensorType, text: str, other: str) -> str:
        """A vector whose lanes behind the row's end hold another value."""
        width = int(type_.width)
        if width == power_of_two(width):
            return text
        return f"tl.where({self._block(type_)} < {width}, {text}, {other})"

    def _mask(self, type_: TensorType, other: str = "") -> str:
        """The arguments of an access to a row, where its block is longer."""
        width = int(type_.width)
        return f", mask={self._block(type_)} < {width}{other}" if width != power_of_two(width) else ""

    def _fresh(self, wanted: str) -> str:
        candidate, count = wanted, 2
        while candidate in self.taken:
            candidate, count = f"{wanted}_{count}", count + 1
        self.taken.add(candidate)
        return candidate

    def _let(self, value: Value, text: str) -> str:
        op = self.fused.form.node(value).op.name
        name = self._fresh(self.fused.form.name_of(value) or _SHORT.get(op, op))
        self.lines.append(f"{name} = {text}")
        self.names[value] = name
        return name

    # ------------------------------------------------------------------- steps

    def _step(self, node: Node) -> None:
        written = _WRITTEN.get(node.op.name)
        if set(node.inputs) <= self.numbers:
            self.numbers.update(node.outputs)
        if node.op.name in ("upcast", "cast_like", "upcast_like"):
            self.names[node.outputs[0]] = self._read(node.inputs[0])
        elif written is not None:
            written(self, node)
        else:
            self._elementwise(node)

    def _elementwise(self, node: Node) -> None:
        operands = [self._read(value) for value in node.inputs]
        if node.op.name in _INFIX:
            self._let(node.outputs[0], f" {_INFIX[node.op.name]} ".join(operands))
            return
        template = OPS[node.op.name].triton
        assert template is not None
        names = dict(zip(("x", "y"), operands, strict=False))
        self._let(node.outputs[0], template.format(**names))

    def _softmax(self, node: Node) -> None:
        type_ = self.fused.form.type(node.outputs[0])
        x = self._read(node.inputs[0])
        inside = self._inside(type_, x, _LEAST)
        if inside != x:
            x, text = self._fresh("inside"), inside
            self.lines.append(f"{x} = {text}")
        power = self._fresh("power")
        self.lines.append(f"{power} = tl.exp({x} - tl.max({x}, 0))")
        self._let(node.outputs[0], f"{power} / tl.sum({power}, 0)")

    def _sum(self, node: Node) -> None:
        assert node.inputs[0] is not None
        type_ = self.fused.form.type(node.inputs[0])
        self.numbers.add(node.outputs[0])
        self._let(node.outputs[0], f"tl.sum({self._inside(type_, self._read(node.inputs[0]), '0.0')}, 0)")

    def _top_k(self, node: Node) -> None:
        """One after the other: the largest of those left, the first where several are."""
        assert node.inputs[0] is not None
        scores, type_ = self._read(node.inputs[0]), self.fused.form.type(node.inputs[0])
        lane, rank = self._block(type_), self._block(node.types[0])
        values = self._fresh(self.fused.form.name_of(node.outputs[0]) or "values")
        places = self._fresh(self.fused.form.name_of(node.outputs[1]) or "places")
        self.names.update(zip(node.outputs, (values, places), strict=True))
        size, count = power_of_two(int(node.types[0].width)), int(node.types[0].width)
        self.lines += [
            f"{values} = tl.zeros([{size}], tl.float32)",
            f"{places} = tl.zeros([{size}], tl.int32)",
            f"left = {lane} < {int(type_.width)}",
            f"for n in range({count}):",
            f"    best = tl.max(tl.where(left, {scores}, {_LEAST}), 0)",
            f"    place = tl.min(tl.where(left & ({scores} == best), {lane}, {int(type_.width) - 1}), 0)",
            f"    {values} = tl.where({rank} == n, best, {values})",
            f"    {places} = tl.where({rank} == n, place, {places})",
            f"    left = left & ({lane} != place)",
        ]

    def _gather(self, node: Node) -> None:
        assert node.inputs[0] is not None
        x, index = (self._read(value) for value in node.inputs)
        lane = self._block(self.fused.form.type(node.inputs[0]))
        self._let(
            node.outputs[0], f"tl.sum(tl.where({index}[:, None] == {lane}[None, :], {x}[None, :], 0.0), 1)"
        )

    def _group_mask(self, node: Node) -> None:
        """A group's rank is how many are better; groups along rows, scores along columns."""
        assert node.inputs[0] is not None
        x, type_ = self._read(node.inputs[0]), self.fused.form.type(node.inputs[0])
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
            "seen = tl.sum((own & kept[:, None]).to(tl.int32), 0) > 0",
        ]
        self._let(node.outputs[0], f"tl.where(seen, {x}, {fill})")

    # ------------------------------------------------------------------ stores

    def _store(self, value: Value, name: str) -> None:
        type_ = self.fused.form.type(value)
        text = f"{self._read(value)}.to(tl.int64)" if type_.dtype is DType.I64 else self._read(value)
        width = int(type_.width)
        if value in self.numbers:
            self.lines.append(f"tl.store({name}_ptr + row, {text})")
            return
        block = self._block(type_)
        self.lines.append(f"tl.store({name}_ptr + row * {width} + {block}, {text}{self._mask(type_)})")


# How an op is written that is not elementwise.
_WRITTEN = {
    "softmax": _Writer._softmax,
    "sum": _Writer._sum,
    "top_k": _Writer._top_k,
    "gather": _Writer._gather,
    "group_mask": _Writer._group_mask,
}
