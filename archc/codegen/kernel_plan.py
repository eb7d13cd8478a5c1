"""What a template may see of a kernel."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.class_plan import Argument, Line, Operand
from archc.codegen.flash_plan import FlashKernel
from archc.codegen.router_plan import RouterKernel
from archc.codegen.wide_norm import WideNorm


@dataclass(frozen=True)
class CustomOp:
    """How a kernel's op is registered with PyTorch: forward, gradient, and what passes between them.

    Every tuple of strings holds names or expressions in the order of the signature.
    """

    operands: tuple[Operand, ...]
    outputs: tuple[str, ...]
    fakes: tuple[str, ...]  # empty tensors like the outputs
    saved: tuple[str, ...]  # kept for the gradient
    incoming: tuple[Argument, ...]  # what the gradient op takes: gradients of outputs, then what was saved
    gradients: tuple[str, ...]
    gradient_fakes: tuple[str, ...]
    returned: tuple[str, ...]  # the gradient of each parameter
    remembered: tuple[str, ...]  # further statements of the set-up
    anchor: str  # the parameter whose device and dtype decide
    plain: tuple[Line, ...]  # the op in plain PyTorch

    @property
    def parameters(self) -> tuple[Argument, ...]:
        return tuple(Argument(o.name, "Tensor | None" if o.optional else "Tensor") for o in self.operands)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(operand.name for operand in self.operands)

    @property
    def incoming_names(self) -> tuple[str, ...]:
        return tuple(argument.name for argument in self.incoming)

    @property
    def output_gradients(self) -> tuple[str, ...]:
        return tuple(f"d{name}" for name in self.outputs)

    @property
    def saves_output(self) -> bool:
        return any(name in self.outputs for name in self.saved)

    @property
    def result_type(self) -> str:
        return _tensors(len(self.outputs))

    @property
    def gradient_type(self) -> str:
        return _tensors(len(self.gradients))


def _tensors(count: int) -> str:
    return "Tensor" if count == 1 else f"tuple[{', '.join(['Tensor'] * count)}]"


@dataclass(frozen=True)
class NormKernel:
    """A row of sums and one norm.  `wide` is there where a row's gradient does not fit in registers."""

    name: str
    equation: tuple[str, ...]
    layout: str
    op: CustomOp
    width: int
    block: int
    warps: int
    sums: bool
    total: str  # what the norm reads
    result: str
    weight: bool
    weights: tuple[str, ...]
    sum_lines: tuple[str, ...]
    norm_lines: tuple[str, ...]
    result_lines: tuple[str, ...]
    gradient_lines: tuple[str, ...]
    row_lines: tuple[str, ...]
    forward_parameters: tuple[str, ...]
    forward_arguments: tuple[str, ...]
    backward_parameters: tuple[str, ...]
    backward_arguments: tuple[str, ...]
    backward_warps: int
    wide: WideNorm | None
    template: str

    @property
    def backward_grid(self) -> str:
        groups = self.wide.groups if self.wide else 1
        return f"(programs, {groups})" if groups > 1 else "(programs,)"

    @property
    def masked(self) -> bool:
        return self.block != self.width

    @property
    def load(self) -> str:
        return ", mask=inside, other=0.0" if self.masked else ""

    @property
    def store(self) -> str:
        return ", mask=inside" if self.masked else ""


@dataclass(frozen=True)
class Heads:
    """Heads that a rope kernel reads: `offset` into a token's values, rotated or only copied."""

    name: str
    source: str
    source_width: int
    offset: int
    heads: int
    block: int
    width: int  # of all heads together
    weight: str  # the norm's weight, or ""
    mask: str  # which pairs there are, or "" for all
    lane_mask: str  # the same for values of pairs side by side
    rest_mask: str
    copy_mask: str

    @property
    def offset_term(self) -> str:
        return f"{self.offset} + " if self.offset else ""

    @property
    def rest_load(self) -> str:
        return _load(self.rest_mask)

    @property
    def rest_store(self) -> str:
        return _store(self.rest_mask)

    @property
    def copy_load(self) -> str:
        return _load(self.copy_mask)

    @property
    def copy_store(self) -> str:
        return _store(self.copy_mask)


def _load(mask: str) -> str:
    return f", mask={mask}, other=0.0" if mask else ""


def _store(mask: str) -> str:
    return f", mask={mask}" if mask else ""


@dataclass(frozen=True)
class RopeKernel:
    """Rotation of queries and keys, their norms before it, values along with them."""

    name: str
    equation: tuple[str, ...]
    layout: str
    op: CustomOp
    sources: tuple[tuple[str, int], ...]  # inputs and the width of a token in each
    source_shapes: dict[str, str]  # their dims behind [B, T]
    rotated: tuple[Heads, ...]
    copied: tuple[Heads, ...]
    head_dim: int
    head_block: int
    pairs: int
    pair_block: int
    rest: int
    rest_block: int
    interleaved: bool
    over_heads: bool  # the norm is over all heads together, its weight as wide
    eps: float
    shift: str  # "1.0 + " where the norm's weight has an offset
    warps: int
    forward_parameters: tuple[str, ...]
    forward_arguments: tuple[str, ...]
    backward_parameters: tuple[str, ...]
    backward_arguments: tuple[str, ...]
    template: str

    @property
    def heads(self) -> tuple[Heads, ...]:
        return (*self.rotated, *self.copied)

    @property
    def weights(self) -> tuple[str, ...]:
        return tuple(part.weight for part in self.rotated if part.weight)

    def load_pairs(self, part: Heads, place: str, first: str, second: str) -> tuple[str, ...]:
        """Statements that load the pairs of heads in float32; neighbours come together, and are split."""
        if self.interleaved:
            values = f"tl.load({place} + lane{_load(part.lane_mask)}).to(tl.float32)"
            return (
                f"{first}, {second} = tl.split(tl.reshape({values}, {part.block}, {self.pair_block}, 2))",
            )
        return tuple(
            f"{name} = tl.load({place} + {lane}{_load(part.mask)}).to(tl.float32)"
            for name, lane in ((first, self.first), (second, self.second))
        )

    def store_pairs(self, part: Heads, place: str, first: str, second: str) -> tuple[str, ...]:
        """Statements that store pairs where `load_pairs` found them."""
        if self.interleaved:
            return (f"tl.store({place} + lane, tl.interleave({first}, {second}){_store(part.lane_mask)})",)
        return tuple(
            f"tl.store({place} + {lane}, {value}{_store(part.mask)})"
            for value, lane in ((first, self.first), (second, self.second))
        )

    def scale(self, part: Heads) -> str:
        """One over the root mean square of each head, or of all of them."""
        if self.over_heads:
            return f"1.0 / tl.sqrt((tl.sum(a * a) + tl.sum(b * b)) / {part.width} + {self.eps})"
        return (
            f"(1.0 / tl.sqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / {self.head_dim} + {self.eps}))[:, None]"
        )

    def mean(self, part: Heads) -> str:
        """The gradient's mean along the normed values of each head, or of all of them."""
        if self.over_heads:
            return f"(tl.sum(da * a) + tl.sum(db * b)) / {part.width}"
        return f"((tl.sum(da * a, 1) + tl.sum(db * b, 1)) / {self.head_dim})[:, None]"

    def weight_width(self, part: Heads) -> int:
        return part.width if self.over_heads else self.head_dim

    def weight_block(self, part: Heads) -> str:
        return f"[{part.block}, {self.pair_block}]" if self.over_heads else f"[{self.pair_block}]"

    def weight_place(self, lane: str, head: str = "head") -> str:
        """Where the norm's weight of the pairs' first or second values lies."""
        return f"{head} * {self.head_dim} + {lane}" if self.over_heads else lane

    def weight_load(self, part: Heads, head: str = "head") -> str:
        return _load(part.mask.replace("head", head)) if self.over_heads else self.pair_load

    def weight_store(self, part: Heads, head: str = "head") -> str:
        return _store(part.mask.replace("head", head)) if self.over_heads else self.pair_store

    def weight_part(self, gradient: str) -> str:
        """What a token adds to the gradient of the norm's weight."""
        return gradient if self.over_heads else f"tl.sum({gradient}, 0)"

    @property
    def first(self) -> str:
        """Where the first value of each pair lies in a head."""
        return "2 * pair" if self.interleaved else "pair"

    @property
    def second(self) -> str:
        return "2 * pair + 1" if self.interleaved else f"{self.pairs} + pair"

    @property
    def pair_mask(self) -> str:
        return f"pair < {self.pairs}" if self.pair_block != self.pairs else ""

    @property
    def pair_load(self) -> str:
        return _load(self.pair_mask)

    @property
    def pair_store(self) -> str:
        return _store(self.pair_mask)


@dataclass(frozen=True)
class PointwiseKernel:
    """An elementwise function of rows."""

    name: str
    equation: tuple[str, ...]
    layout: str
    op: CustomOp
    width: int
    block: int
    interleaved: bool  # whether pairs of values lie side by side in the rows of an operand
    warps: int
    helpers: tuple[str, ...]
    load_lines: tuple[str, ...]
    forward: tuple[str, ...]
    backward: tuple[str, ...]
    store_lines: tuple[str, ...]
    row_lines: tuple[str, ...]
    gradient_tensors: tuple[tuple[str, str], ...]  # what the backward kernel writes, and how it is made
    vector_gradients: tuple[tuple[str, str], ...]  # gradients of vectors, summed over rows
    forward_parameters: tuple[str, ...]
    forward_arguments: tuple[str, ...]
    backward_parameters: tuple[str, ...]
    backward_arguments: tuple[str, ...]
    template: str = "pointwise"

    @property
    def columns(self) -> int:
        """Programs that share a row."""
        return -(-self.width // self.block)

    @property
    def masked(self) -> bool:
        return self.width % self.block != 0

    @property
    def load(self) -> str:
        return ", mask=inside, other=0.0" if self.masked else ""

    @property
    def store(self) -> str:
        return ", mask=inside" if self.masked else ""


@dataclass(frozen=True)
class AttentionKernel:
    """PyTorch's own scaled-dot-product attention, and with `steps` a kernel for one new token behind a cache.

    `mask` is how the runtime is asked for what a query sees, `window` how many keys at most, 0 for all.
    Where PyTorch's does not do all that is done to scores, `plain` has the statements, and `extra` the
    operands besides queries, keys and values: their names, and how a piece of queries and keys reads them.

    A program of that kernel has the query heads of one key head, or one of several `blocks` of them, in
    `rows`, and `tile` keys at a time in half precision; it merges `merged` shares of the keys at a time.
    `softcap` is that of the scores.  `keeps`: whether it is given what is kept of earlier tokens, and leaves
    the new ones there.
    `values_in_keys`: values are the first columns of the keys, and `head_block` holds those behind them.
    `flash`: the kernel for whole sequences, if there is one.
    """

    name: str
    equation: tuple[str, ...]
    layout: str
    mask: str
    window: int
    scale: float
    plain: tuple[Line, ...]
    extra: tuple[tuple[str, str], ...]
    heads: int
    kv_heads: int
    blocks: int
    head_dim: int
    value_dim: int
    rows: int
    head_block: int
    value_block: int
    tile: int
    merged: int
    warps: int
    softcap: float | None
    keeps: bool
    flash: FlashKernel | None
    steps: bool
    values_in_keys: bool
    template: str = "attention"

    @property
    def helpers(self) -> tuple[str, ...]:
        """Functions that the kernels call."""
        flash = self.flash is not None and bool(self.flash.softcap)
        return ("tanh",) if flash or (self.steps and self.softcap is not None) else ()

    @property
    def sinks(self) -> bool:
        return any(name == "sinks" for name, _ in self.extra)

    @property
    def step_warps(self) -> str:
        """Values of float32 take twice the registers, so there are twice the threads to hold them."""
        warps = str(self.warps)
        return warps if self.warps > 4 else f"{warps} if q.element_size() == 2 else {2 * self.warps}"

    @property
    def step_tile(self) -> str:
        """Half as many keys in float32, but no fewer than a tensor core's tile has."""
        half = max(self.tile // 2, 16)
        return str(half) if half == self.tile else f"{self.tile} if q.element_size() == 2 else {half}"

    @property
    def group(self) -> int:
        """Query heads of a program; all those of a key head, but for `blocks`."""
        return self.heads // self.programs

    @property
    def step_template(self) -> str:
        return "latent_step" if self.values_in_keys else "attention_step"

    @property
    def programs(self) -> int:
        """Programs of one sequence, for each share of the keys."""
        return self.kv_heads * self.blocks

    @property
    def group_block(self) -> int:
        return 1 << (self.group - 1).bit_length()

    @property
    def grouped(self) -> bool:
        return self.heads > self.kv_heads

    @property
    def behind(self) -> int:
        """Columns of the keys behind those that are their values."""
        return self.head_dim - self.value_dim

    @property
    def behind_mask(self) -> str:
        return f"behind < {self.head_dim}" if self.head_block != self.behind else ""

    @property
    def pieces(self) -> str:
        """The arguments that ask the runtime for pieces."""
        return ", ".join(filter(None, (self.mask, "whole=False" if self.plain else "")))

    @property
    def extra_parameters(self) -> str:
        return "".join(f", {name}: Tensor" for name, _ in self.extra)

    @property
    def extra_pieces(self) -> str:
        return "".join(f", {piece}" for _, piece in self.extra)

    @property
    def head_mask(self) -> str:
        return f"column < {self.head_dim}" if self.head_block != self.head_dim else ""

    @property
    def value_mask(self) -> str:
        return f"value_column < {self.value_dim}" if self.value_block != self.value_dim else ""

    @property
    def query_mask(self) -> str:
        return f"query < {self.group}" if self.rows != self.group else ""

    @property
    def group_mask(self) -> str:
        return f"query < {self.group}" if self.group_block != self.group else ""

    def where(self, *masks: str) -> str:
        """The arguments of a store with some masks, in the order of its dims; an empty one is no mask."""
        joined = _outer(masks)
        return f", mask={joined}" if joined else ""

    def read(self, *masks: str, other: str = "0.0") -> str:
        """The same of a load."""
        joined = _outer(masks)
        return f", mask={joined}, other={other}" if joined else ""


def _outer(masks: tuple[str, ...]) -> str:
    """Masks of single dims as one of all of them."""
    texts = []
    for place, mask in enumerate(masks):
        index = ", ".join(":" if dim == place else "None" for dim in range(len(masks)))
        last = place == len(masks) - 1
        if mask:
            bracketed = mask if mask.isidentifier() else f"({mask})"
            texts.append(bracketed if last else f"{bracketed}[{index}]")
    return texts[0].strip("()") if len(masks) == 1 and texts else " & ".join(texts)


@dataclass(frozen=True)
class LossKernel:
    """Cross entropy over the logits of a linear map, in chunks of `rows`.

    `triton`: whether the target has a kernel for it; `bias`: whether the linear map has one; `tail`: whether
    something follows it.
    """

    name: str
    log_probs: str
    vocabulary: int
    width: int
    block: int
    warps: int
    rows: int
    triton: bool
    bias: bool
    tail: bool
    template: str = "linear_cross_entropy"

    @property
    def loss_class(self) -> str:
        return _camel_case(self.name)

    @property
    def log_probs_class(self) -> str:
        return _camel_case(self.log_probs)

    @property
    def _mask(self) -> str:
        return f"start + column < {self.vocabulary}" if self.vocabulary % self.block else ""

    @property
    def load(self) -> str:
        return f", mask={self._mask}, other=-3.0e38" if self._mask else ""

    @property
    def store(self) -> str:
        return _store(self._mask)


@dataclass(frozen=True)
class LinearChoice:
    """A weight [outputs, inputs] of a dtype, 1 row or up to 16, and the tile that was fastest."""

    dtype: str
    outputs: int
    inputs: int
    rows: int
    tile: tuple[int, int, int, int]
    remark: str

    @property
    def key(self) -> str:
        return f"torch.{self.dtype}, {self.outputs}, {self.inputs}, {self.rows}"


@dataclass(frozen=True)
class LinearKernel:
    """Linear maps of few rows.  `sources`: where their tiles were measured."""

    name: str
    choices: tuple[LinearChoice, ...]
    sources: tuple[str, ...]
    template: str = "linear"

    def has(self, shape: tuple[int, int] | None) -> bool:
        """Whether there is a tile for a weight of a shape."""
        return any((choice.outputs, choice.inputs) == shape for choice in self.choices)


def _camel_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


@dataclass(frozen=True)
class GroupedKernel:
    """The products, sorts and sums of experts: for any sizes, so one plan for a model."""

    name: str = "grouped_linear"
    template: str = "grouped"


# Kernels of fused ops, which are registered with PyTorch alike.
OpKernel = NormKernel | RopeKernel | PointwiseKernel
Kernel = OpKernel | AttentionKernel | LossKernel | LinearKernel | GroupedKernel | RouterKernel
