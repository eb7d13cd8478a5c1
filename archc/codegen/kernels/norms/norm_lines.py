"""The statements of a norm in a kernel: of one row, in registers, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.codegen.kernels.masks import load_where, store_where


@dataclass(frozen=True)
class Norm:
    """A norm of rows `source`, by operands `weight` and `bias`, "" for none; its factor is (offset + weight).

    kind:   "rms_norm" or "layer_norm"
    absent: whether rows and operands may be None, for zeros
    """

    kind: str
    source: str
    weight: str
    bias: str
    offset: float
    eps: float
    absent: bool

    @property
    def weights(self) -> tuple[str, ...]:
        return tuple(name for name in (self.weight, self.bias) if name)

    @property
    def centred(self) -> bool:
        """Whether the row's mean is taken off."""
        return self.kind == "layer_norm"

    @property
    def factor(self) -> str:
        return f"({self.offset} + {self.weight})" if self.offset else self.weight


@dataclass(frozen=True)
class Gradient:
    """The gradient of a norm.

    incoming: the name of its result's gradient
    joins:    another gradient of what it reads, "" for none
    target:   the gradient of that
    made:     whether the kernel has made `incoming` itself just before
    ragged:   whether it is then anything but zeros beside the row, as a layer norm's is
    """

    norm: Norm
    incoming: str
    joins: str
    target: str
    made: bool
    ragged: bool

    @property
    def others(self) -> tuple[str, ...]:
        """What the kernel reads besides the norm's source."""
        read = (self.joins,) if self.joins else ()
        return read if self.made else (self.incoming, *read)


@dataclass(frozen=True)
class Row:
    """A row of a kernel: its width, and the power of two that holds it.

    alone: whether tensors have no other, so that it lies where they begin
    """

    width: int
    block: int
    alone: bool = False

    @property
    def mask(self) -> str:
        return "inside" if self.block != self.width else ""

    def load(self, name: str, stride: str) -> str:
        """A row of a tensor in float32; rows are `stride` apart."""
        if self.alone:
            return self.load_vector(name)
        return f"tl.load({name}_ptr + row * {stride} + column{load_where(self.mask)}).to(tl.float32)"

    def load_vector(self, name: str) -> str:
        return f"tl.load({name}_ptr + column{load_where(self.mask)}).to(tl.float32)"

    def store(self, name: str, value: str) -> str:
        """The statement that writes a row of a contiguous tensor."""
        return f"tl.store({name}_ptr + row * {self.width} + column, {value}{store_where(self.mask)})"


def scale_lines(norm: Norm, row: Row) -> tuple[str, ...]:
    """`rstd`, and `normed` before weights."""
    source, width = norm.source, row.width
    if not norm.centred:
        return (
            f"rstd = 1.0 / tl.sqrt(tl.sum({source} * {source}, 0) / {width} + {norm.eps})",
            f"normed = {source} * rstd",
        )
    centred = f"{source} - tl.sum({source}, 0) / {width}"
    return (
        f"centred = tl.where(inside, {centred}, 0.0)" if row.mask else f"centred = {centred}",
        f"rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / {width} + {norm.eps})",
        "normed = centred * rstd",
    )


def result_lines(norm: Norm, row: Row, result: str, assign: str) -> tuple[str, ...]:
    """`result` becomes the normed row, or that is added to it, as `assign` says."""
    lines = [f"{result} {assign} normed"]
    if norm.weight:
        lines = [
            f"{norm.weight} = {row.load_vector(norm.weight)}",
            f"{result} {assign} normed * {norm.factor}",
        ]
    if norm.bias:
        lines.append(f"{result} += {row.load_vector(norm.bias)}")
    return tuple(lines)


def gradient_lines(gradient: Gradient, row: Row, stride: str) -> tuple[str, ...]:
    """The gradient of a row, and its part of the weights' gradients, which are added up.

    All loads stand first, so that they are under way together; the sums do not wait for one another.
    """
    norm, incoming, target = gradient.norm, gradient.incoming, gradient.target
    loads = [(norm.source, stride), *((name, str(row.width)) for name in gradient.others)]
    lines = [f"{name} = {row.load(name, apart)}" for name, apart in loads]
    dnormed = f"{incoming} * {norm.factor}" if norm.weight else incoming
    lines.append(
        f"dnormed = tl.where(inside, {dnormed}, 0.0)"
        if gradient.ragged and row.mask
        else f"dnormed = {dnormed}"
    )
    lines += scale_lines(norm, row)
    if norm.weight:
        lines.append(f"d{norm.weight} += {incoming} * normed")
    if norm.bias:
        lines.append(f"d{norm.bias} += {incoming}")
    value = "centred" if norm.centred else norm.source
    lines.append(f"along = rstd * (tl.sum(dnormed * {value}, 0) / {row.width})")
    level = f"tl.sum(dnormed, 0) / {row.width} - " if norm.centred else ""
    joins = f" + {gradient.joins}" if gradient.joins else ""
    lines.append(f"{target} = rstd * (dnormed - {level}normed * along){joins}")
    return (*lines, row.store(target, target))


def if_there(name: str, lines: Sequence[str], comment: str = "") -> tuple[str, ...]:
    """Statements that are left out where a tensor is None."""
    head = f"if {name}_ptr is not None:"
    return (f"{head}  # {comment}" if comment else head, *(f"    {line}" for line in lines))
