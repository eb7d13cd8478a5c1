"""The gradient of a norm whose rows are wider than registers: block by block, after the row's sums.

Each sum is complete before what is computed from it: a layer norm's mean, then the scale and what the
gradient takes off, then the gradient.  A row comes from memory once, and from a cache when it is read again.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_NARROW = 8192  # columns of a row whose gradient fits in registers
WARPS = 8
_BLOCKS = (4096, 2048)  # columns: the longer one where it needs no mask
_HELD = 24576  # columns of weights' gradients that fit in registers beside the block in work


@dataclass(frozen=True)
class WideNorm:
    """The gradient of a norm whose rows are read in blocks.

    A program takes one group of a row's blocks, and keeps what each adds to the weights' gradients.
    """

    block: int
    groups: int
    blocks: int  # of a group
    masked: bool
    centred: bool  # the row's mean is taken off
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

    def call(self, kernel: str, block: int) -> str:
        """The statement that computes a block."""
        arguments = ", ".join((self.start(block), *self.parameters[1:]))
        targets = ", ".join(f"{name}_part" for name in self.weights)
        call = f"_{kernel}_backward_block({arguments})"
        if len(self.weights) == 1:
            return f"d{self.weights[0]}_{block} += {call}"
        return f"{targets} = {call}" if targets else call

    def add_lines(self, block: int) -> tuple[str, ...]:
        """What follows the call for each of several weights."""
        if len(self.weights) == 1:
            return ()
        return tuple(f"d{name}_{block} += {name}_part" for name in self.weights)


def plan_wide_norm(
    kind: str,
    total: str,
    result: str,
    weights: tuple[str, ...],
    factor: str,
    width: int,
    eps: float,
    joins: bool,
) -> WideNorm:
    """The gradient of an "rms_norm" or "layer_norm" of rows `total`, whose own gradient `joins` or not."""
    block = next((block for block in _BLOCKS if width % block == 0), _BLOCKS[-1])
    groups = -(-width * max(1, len(weights)) // _HELD)
    blocks = -(-width // (groups * block))
    masked = width != groups * blocks * block
    centred = kind == "layer_norm"
    value = f"({total} - mean)" if centred else total
    rows = (f"d{result}", *((f"d{total}",) if joins else ()))
    scalars = ("mean", "rstd", "level", "along") if centred else ("rstd", "along")
    pointers = [f"{name}_row" for name in (total, *rows)]
    if "weight" in weights:
        pointers.append("weight_ptr")
    dx = f"dx = rstd * (dnormed{' - level' if centred else ''} - normed * along)"
    load = ", mask=inside, other=0.0" if masked else ""
    return WideNorm(
        block=block,
        groups=groups,
        blocks=blocks,
        masked=masked,
        centred=centred,
        value=f"tl.where(inside, {total} - mean, 0.0)" if centred and masked else value,
        contiguous_rows=(*rows, "dx"),
        parameters=("start", "column", *scalars, *pointers, "dx_row"),
        read_lines=_read_lines(total, result, "weight" in weights, factor, load),
        sums=("squares", "products", *(("levels",) if centred else ())),
        sum_lines=_sum_lines(total, centred, masked),
        scalar_lines=_scalar_lines(width, eps, centred),
        result_lines=(dx, *((f"dx += {_load(f'd{total}', load)}",) if joins else ())),
        weights=weights,
        parts=tuple(f"d{result} * normed" if name == "weight" else f"d{result}" for name in weights),
    )


def _load(name: str, load: str) -> str:
    return f"tl.load({name}_row + start + column{load}).to(tl.float32)"


def _read_lines(total: str, result: str, weight: bool, factor: str, load: str) -> tuple[str, ...]:
    """A block of a row, of the incoming gradient, and of the gradient of the normed row."""
    reads = [f"{name} = {_load(name, load)}" for name in (total, f"d{result}")]
    if weight:
        reads.append(f"weight = tl.load(weight_ptr + start + column{load}).to(tl.float32)")
    return (*reads, f"dnormed = d{result} * {factor}" if weight else f"dnormed = d{result}")


def _sum_lines(total: str, centred: bool, masked: bool) -> tuple[str, ...]:
    if not centred:
        return (f"squares += {total} * {total}", f"products += dnormed * {total}")
    value = f"{total} - mean"
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
