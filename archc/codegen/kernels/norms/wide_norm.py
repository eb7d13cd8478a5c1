"""The gradient of a norm whose rows are wider than registers: block by block, after the row's sums.

Each sum is complete before what is computed from it: a layer norm's mean, then the scale and what the
gradient takes off, then the gradient.  A row comes from memory once, and from a cache when it is read again.
"""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.masks import load_where
from archc.codegen.kernels.norms.norm_lines import Gradient, Norm

MAX_NARROW = 8192  # columns of a row whose gradient fits in registers
_WARPS = (8, 16)
_BLOCKS = (4096, 2048)  # columns: the longer one where it needs no mask
_HELD = 3072  # columns of weights' gradients that a warp's registers hold beside the block in work


@dataclass(frozen=True)
class WideNorm:
    """The gradient of a norm whose rows are read in blocks.

    A program takes one group of a row's blocks, and keeps what each adds to the weights' gradients.
    """

    warps: int
    block: int
    groups: int
    blocks: int  # of a group
    masked: bool
    centred: bool  # the row's mean is taken off
    source: str  # the rows that are normed
    target: str  # their gradient
    value: str  # what the norm scales
    contiguous_rows: tuple[str, ...]
    parameters: tuple[str, ...]  # of the function of a block
    read_lines: tuple[str, ...]
    sums: tuple[str, ...]
    sum_lines: tuple[str, ...]
    scalar_lines: tuple[str, ...]
    result_lines: tuple[str, ...]
    weights: tuple[str, ...]
    parts: tuple[str, ...]  # what a block adds to the gradient of each weight

    @property
    def store(self) -> str:
        return ", mask=inside" if self.masked else ""

    def start(self, block: int) -> str:
        """Where a block of a program's group starts."""
        offset = block * self.block
        if self.groups == 1:
            return str(offset)
        return f"first + {offset}" if offset else "first"

    def start_term(self, block: int) -> str:
        """The same as a term before its columns."""
        start = self.start(block)
        return "" if start == "0" else f"{start} + "

    def call(self, function: str, block: int) -> str:
        """The statement that computes a block."""
        arguments = ", ".join((self.start(block), *self.parameters[1:]))
        targets = ", ".join(f"{name}_part" for name in self.weights)
        call = f"{function}({arguments})"
        if len(self.weights) == 1:
            return f"d{self.weights[0]}_{block} += {call}"
        return f"{targets} = {call}" if targets else call

    def add_lines(self, block: int) -> tuple[str, ...]:
        """What follows the call for each of several weights."""
        if len(self.weights) == 1:
            return ()
        return tuple(f"d{name}_{block} += {name}_part" for name in self.weights)


def plan_wide_norm(gradient: Gradient, width: int) -> WideNorm:
    """The gradient of a norm of rows of so many columns."""
    norm, target = gradient.norm, gradient.target
    block, warps, groups = _tiles(width, width * max(1, len(norm.weights)))
    blocks = -(-width // (groups * block))
    masked = width != groups * blocks * block
    rows = (gradient.incoming, *((gradient.joins,) if gradient.joins else ()))
    scalars = ("mean", "rstd", "level", "along") if norm.centred else ("rstd", "along")
    pointers = [f"{name}_row" for name in (norm.source, *rows)]
    if norm.weight:
        pointers.append(f"{norm.weight}_ptr")
    load = load_where("inside" if masked else "")
    return WideNorm(
        warps=warps,
        block=block,
        groups=groups,
        blocks=blocks,
        masked=masked,
        centred=norm.centred,
        source=norm.source,
        target=target,
        value=_value(norm, masked),
        contiguous_rows=(*rows, target),
        parameters=("start", "column", *scalars, *pointers, f"{target}_row"),
        read_lines=_read_lines(gradient, load),
        sums=("squares", "products", *(("levels",) if norm.centred else ())),
        sum_lines=_sum_lines(norm, masked),
        scalar_lines=_scalar_lines(width, norm.eps, norm.centred),
        result_lines=_result_lines(gradient, load),
        weights=norm.weights,
        parts=tuple(
            f"{gradient.incoming} * normed" if name == norm.weight else gradient.incoming
            for name in norm.weights
        ),
    )


def _tiles(width: int, held: int) -> tuple[int, int, int]:
    """Columns of a block, warps, and groups of blocks, where so many values of gradients are held."""
    block = next((block for block in _BLOCKS if width % block == 0), _BLOCKS[-1])
    warps = next((warps for warps in _WARPS if held <= warps * _HELD), _WARPS[-1])
    return block, warps, -(-held // (warps * _HELD))


def _value(norm: Norm, masked: bool) -> str:
    """What the norm scales: the row, or the row without its mean and with zeros beside it."""
    if not norm.centred:
        return norm.source
    centred = f"{norm.source} - mean"
    return f"tl.where(inside, {centred}, 0.0)" if masked else f"({centred})"


def _result_lines(gradient: Gradient, load: str) -> tuple[str, ...]:
    """The gradient of a block of the row, with another that joins it."""
    level = " - level" if gradient.norm.centred else ""
    result = f"{gradient.target} = rstd * (dnormed{level} - normed * along)"
    return (result, f"{gradient.target} += {_load(gradient.joins, load)}") if gradient.joins else (result,)


def _load(name: str, load: str) -> str:
    return f"tl.load({name}_row + start + column{load}).to(tl.float32)"


def _read_lines(gradient: Gradient, load: str) -> tuple[str, ...]:
    """A block of a row, of the incoming gradient, and of the gradient of the normed row."""
    norm, incoming = gradient.norm, gradient.incoming
    reads = [f"{name} = {_load(name, load)}" for name in (norm.source, incoming)]
    if norm.weight:
        reads.append(f"{norm.weight} = tl.load({norm.weight}_ptr + start + column{load}).to(tl.float32)")
    return (*reads, f"dnormed = {incoming} * {norm.factor}" if norm.weight else f"dnormed = {incoming}")


def _sum_lines(norm: Norm, masked: bool) -> tuple[str, ...]:
    source = norm.source
    if not norm.centred:
        return (f"squares += {source} * {source}", f"products += dnormed * {source}")
    value = f"{source} - mean"
    return (
        f"centred = tl.where(inside, {value}, 0.0)" if masked else f"centred = {value}",
        "squares += centred * centred",
        "products += dnormed * centred",
        "levels += dnormed",
    )


def _scalar_lines(width: int, eps: float, centred: bool) -> tuple[str, ...]:
    """The row's scale, and what its gradient has along the normed row and, of a layer norm, everywhere."""
    return (
        f"rstd = 1.0 / tl.sqrt(tl.sum(squares, 0) / {width} + {eps})",
        f"along = rstd * (tl.sum(products, 0) / {width})",
        *((f"level = tl.sum(levels, 0) / {width}",) if centred else ()),
    )
