"""Plans for elementwise fusions: activations, gated or with a bias, and whatever else a rule spells out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from archc.codegen.class_plan import Argument
from archc.codegen.custom_op import CustomOp
from archc.codegen.fused import Fused, block_of, width_of
from archc.codegen.native_kernel import plan_native_pointwise
from archc.codegen.pointwise import Pointwise, Writer, analyse
from archc.codegen.pointwise_plan import PointwiseKernel


@dataclass(frozen=True)
class _Load:
    """A value as it lies in a row of its source, or two that take turns there."""

    names: tuple[str, ...]
    source: str
    offset: int = 0

    @property
    def interleaved(self) -> bool:
        return len(self.names) > 1


def plan_pointwise(fused: Fused) -> PointwiseKernel:
    """The kernel of a rule of the pointwise family."""
    formulas = analyse(fused.form)
    width = width_of(fused.node.types[0])
    block = block_of(width)
    load = ", mask=inside, other=0.0" if width % block else ""
    store = ", mask=inside" if width % block else ""
    vectors = [name for name, type_ in fused.types.items() if len(type_.shape) == 1]
    sources = [name for name in fused.types if name not in vectors]
    loads = _loads(fused, formulas, vectors, width)
    outputs = tuple(formulas.outputs)
    forward = Writer(taken={*formulas.leaves.values(), *sources}, names=formulas.names)
    for name, formula in formulas.outputs.items():
        forward.assign(name, formula)
    backward, twins = _backward(formulas, loads, vectors, outputs)
    own_rows = [vector for vector in vectors if not twins[vector]]
    gradient_tensors = [(f"d{name}", f"_like({name})") for name in sources]
    gradient_tensors += [
        (f"d{name}_rows", f"_like({sources[0]}, *{sources[0]}.shape[:-1], {width})") for name in own_rows
    ]
    strides = [f"{name}_stride" for name in sources]
    op = _custom_op(fused, sources, vectors, outputs, width)
    return PointwiseKernel(
        name=fused.name,
        equation=fused.equation,
        layout=fused.layout,
        op=op,
        width=width,
        block=block,
        interleaved=any(item.interleaved for item in loads),
        warps=max(1, block // 512),  # 16 bytes of bfloat16 a thread, where a warp has 64 of them too
        helpers=("tanh",) if any("tanh(" in line for line in (*forward.lines, *backward.lines)) else (),
        load_lines=(
            *(line for item in loads for line in _load_lines(item, load, block)),
            *(f"{name} = tl.load({name}_ptr + column{load}).to(tl.float32)" for name in vectors),
        ),
        forward=tuple(forward.lines),
        backward=tuple(backward.lines),
        store_lines=_store_lines(fused, loads, own_rows, width, store),
        row_lines=tuple(f"{name}_rows = _rows({name}, {fused.width(name)})" for name in sources),
        gradient_tensors=tuple(gradient_tensors),
        vector_gradients=tuple((f"d{name}", _sum_rows(name, twins[name], width)) for name in vectors),
        forward_parameters=(*(f"{n}_ptr" for n in (*sources, *vectors, *outputs)), *strides),
        forward_arguments=(
            *(f"{name}_rows" for name in sources),
            *vectors,
            *outputs,
            *(f"{name}_rows.stride(0)" for name in sources),
        ),
        backward_parameters=(
            *(f"{n}_ptr" for n in (*sources, *vectors)),
            *(f"d{n}_ptr" for n in outputs),
            *(f"{n}_ptr" for n, _ in gradient_tensors),
            *strides,
        ),
        backward_arguments=(
            *(f"{name}_rows" for name in sources),
            *vectors,
            *(f"d{name}.contiguous()" for name in outputs),
            *(name for name, _ in gradient_tensors),
            *(f"{name}_rows.stride(0)" for name in sources),
        ),
        native=plan_native_pointwise(
            fused, op, [*_places(fused, loads), *((v, f"{v}_ptr[column]") for v in vectors)], forward.lines
        ),
    )


def _places(fused: Fused, loads: Sequence[_Load]) -> Iterator[tuple[str, str]]:
    """Each value, and its element of a tensor of contiguous rows."""
    for item in loads:
        row = f"{item.source}_ptr[row * {fused.width(item.source)} + "
        for place, name in enumerate(item.names):
            column = f"{len(item.names)} * column + {place}" if item.interleaved else _column(item)
            yield name, f"{row}{column}]"


def _loads(fused: Fused, formulas: Pointwise, vectors: Sequence[str], width: int) -> list[_Load]:
    """Where each value lies: the parts of a split one after another in their source's rows, or in turn."""
    loads: list[_Load] = []
    for value, name in formulas.leaves.items():
        node = fused.form.node(value)
        if name in vectors:
            continue
        if not node.inputs or node.inputs[0] is None:
            loads.append(_Load((name,), name))
            continue
        source = fused.form.name_of(node.inputs[0])
        if node.op.name == "split":
            loads.append(_Load((name,), source, value.output * width))
        elif value.output == 0:
            loads.append(_Load(tuple(formulas.leaves[part] for part in node.outputs), source))
    return loads


def _load_lines(item: _Load, load: str, block: int) -> tuple[str, ...]:
    """Values that take turns are loaded as they lie, so that accesses stay wide, and parted in registers."""
    place = f"{item.source}_ptr + row * {item.source}_stride + {_column(item)}"
    if not item.interleaved:
        return (f"{item.names[0]} = tl.load({place}{load}).to(tl.float32)",)
    return (
        f"{item.source} = tl.load({place}{_of_lanes(load)}).to(tl.float32)",
        f"{', '.join(item.names)} = tl.split(tl.reshape({item.source}, {block}, {len(item.names)}))",
    )


def _column(item: _Load) -> str:
    if item.interleaved:
        return "lane"
    return f"{item.offset} + column" if item.offset else "column"


def _of_lanes(mask: str) -> str:
    return mask.replace("inside", "lane_inside")


def _backward(
    formulas: Pointwise, loads: Sequence[_Load], vectors: Sequence[str], outputs: Sequence[str]
) -> tuple[Writer, dict[str, str]]:
    """The gradient's statements, and for each vector the tensor that has the same gradient row by row."""
    names = {*formulas.leaves.values(), *(item.source for item in loads)}
    gradients = {f"d{name}" for name in (*names, *outputs)}
    writer = Writer(taken=names | gradients, names=formulas.names)
    same: dict[Any, str] = {}
    for item in loads:
        for name in item.names:
            writer.assign(f"d{name}", formulas.gradients[name])
            same.setdefault(formulas.gradients[name], f"d{name}" if name == item.source else "")
    twins = {vector: same.get(formulas.gradients[vector], "") for vector in vectors}
    for vector in vectors:
        if not twins[vector]:
            writer.assign(f"d{vector}", formulas.gradients[vector])
    return writer, twins


def _store_lines(
    fused: Fused, loads: Sequence[_Load], own_rows: Sequence[str], width: int, store: str
) -> tuple[str, ...]:
    lines = []
    for item in loads:
        place = f"d{item.source}_ptr + row * {fused.width(item.source)} + {_column(item)}"
        gradients = ", ".join(f"d{name}" for name in item.names)
        value, mask = (
            (f"tl.interleave({gradients})", _of_lanes(store)) if item.interleaved else (gradients, store)
        )
        lines.append(f"tl.store({place}, {value}{mask})")
    lines += [f"tl.store(d{n}_rows_ptr + row * {width} + column, d{n}{store})" for n in own_rows]
    return tuple(lines)


def _sum_rows(name: str, twin: str, width: int) -> str:
    return f"_rows({twin or f'd{name}_rows'}, {width}).sum(0, dtype=torch.float32).to({name}.dtype)"


def _custom_op(
    fused: Fused, sources: Sequence[str], vectors: Sequence[str], outputs: tuple[str, ...], width: int
) -> CustomOp:
    names = tuple(fused.types)
    anchor = sources[0]
    return CustomOp(
        operands=fused.operands,
        outputs=outputs,
        fakes=(f"_like({anchor}, *{anchor}.shape[:-1], {width})",) * len(outputs),
        saved=(*sources, *vectors),
        incoming=tuple(Argument(name) for name in (*(f"d{n}" for n in outputs), *sources, *vectors)),
        gradients=tuple(f"d{name}" for name in names),
        gradient_fakes=tuple(f"_like({name})" for name in names),
        returned=tuple(f"d{name}" for name in names),
        remembered=(),
        anchor=anchor,
        plain=fused.plain,
    )
