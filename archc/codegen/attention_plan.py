"""What the templates of attention may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.class_plan import Line
from archc.codegen.flash_plan import FlashKernel
from archc.codegen.masks import outer
from archc.codegen.native_plan import NativeAttention
from archc.codegen.step_bias import StepBias


@dataclass(frozen=True)
class LargeTile:
    """A tile of keys in half precision, for chips with `room` for it in shared memory."""

    columns: int  # of a key, and of a query
    rows: int
    keys: int
    stages: int = 2
    held: int = 1  # tiles of keys in shared memory at once
    warps: int = 8

    @property
    def room(self) -> int:
        """Bytes of the queries, of tiles of keys, and of scores in float32."""
        return 2 * (self.rows + self.held * self.keys) * self.columns + 4 * self.rows * self.keys


@dataclass(frozen=True)
class AttentionKernel:
    """One attention: PyTorch's scaled-dot-product attention, and kernels for what that does not do well.

    mask:    the arguments that tell the runtime which keys a query sees
    oldest:  the first position that a query at `position` sees, as an expression; "" for all
    queries: the names of the operands that make up the queries, side by side
    plain:   the statements in PyTorch, where scaled-dot-product attention cannot do what is done to scores
    extra:   operands besides queries, keys and values: their names, and how a piece reads them
    softcap: of the scores
    flash:   the kernel for whole sequences, if there is one
    native:  the C++ function for one new token, if there is one

    The kernel for one new token of each sequence (a step):

    steps:   whether there is one
    fixed:   whether there is one for the keys of another sequence, which does not grow
    keeps:   whether it adds the new token to the cache itself; if not, the cache already has it
    blocks:  among how many programs the query heads of a key head are divided
    rows:    rows of a program, of which each query head takes one
    tile:    keys at a time in half precision
    values_in_keys: the values are the first columns of the keys; `head_block` then holds the other columns
    shared:  keys and values are the same
    large:   the tile on a chip with more shared memory, where values are columns of the keys
    wide:    a tile with twice the query heads, for unpadded sequences that fill the chip; with padding its
             registers would not suffice
    bias:    what the kernel adds to scores
    """

    name: str
    equation: tuple[str, ...]
    layout: str
    mask: tuple[str, ...]
    oldest: str
    scale: float
    plain: tuple[Line, ...]
    queries: tuple[str, ...]
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
    warps: int
    softcap: float | None
    keeps: bool
    flash: FlashKernel | None
    steps: bool
    fixed: bool
    values_in_keys: bool
    shared: bool
    bias: StepBias | None
    native: NativeAttention | None
    large: LargeTile | None
    wide: LargeTile | None
    template: str = "attention"

    @property
    def helpers(self) -> tuple[str, ...]:
        """Functions that the kernels call."""
        flash = self.flash is not None and bool(self.flash.softcap)
        return ("tanh",) if flash or (self.steps and self.softcap is not None) else ()

    @property
    def has_step(self) -> bool:
        """Whether there is a kernel for one new token."""
        return self.steps or self.fixed

    @property
    def one_slot(self) -> bool:
        """Whether keys and values are kept as one."""
        return self.values_in_keys or self.shared

    @property
    def tensors(self) -> str:
        """What a step is given of its token."""
        if not self.keeps:
            return "q"
        return "q, k" if self.shared else "q, k, v"

    @property
    def one_key(self) -> str:
        """The keys that a step always has, which tell their dtype."""
        return "k" if self.keeps or self.fixed else "keys"

    @property
    def written(self) -> str:
        """What a step changes, as a decorator takes it."""
        if not self.keeps:
            return ""
        return '"keys",' if self.shared else '"keys", "values"'

    @property
    def reads_position(self) -> bool:
        """Whether a step needs its tokens' positions: not where they see all before them, however far."""
        return bool(self.oldest or not self.tells_padding)

    @property
    def step_places(self) -> str:
        """Where the new tokens and the keys stand, as the caller has it."""
        own = ["positions"] if self.reads_position else []
        return ", ".join(f"span.steps.{name}" for name in ("filled", *own, "key_positions"))

    @property
    def tells_padding(self) -> bool:
        """Whether a step is told of padding; one with a bias by distance reads where keys stand anyway."""
        return not (self.bias and self.bias.name)

    @property
    def step_extra(self) -> tuple[str, ...]:
        """Operands of a step besides the token, what is kept, and where it stands."""
        made = (self.bias.name,) if self.bias and self.bias.name else ()
        return (*(name for name, _ in self.extra), *made)

    @property
    def step_arguments(self) -> str:
        return "".join(f", {name}" for name in self.step_extra)

    @property
    def step_inputs(self) -> str:
        """The same as the caller has them."""
        given = "".join(f", {name}" for name, _ in self.extra)
        return f"{given}, _{self.name}_{self.bias.name}(q.device)" if self.bias and self.bias.name else given

    @property
    def least_shares(self) -> int:
        """Programs that share the keys at least: with fewer, sums of wide values spill on some chips."""
        return 4 if self.shared and self.value_block > 512 else 1

    @property
    def block(self) -> str:
        """What counts the programs of one sequence."""
        return "block" if self.blocks > 1 else "head"

    @property
    def sinks(self) -> bool:
        return any(name == "sinks" for name, _ in self.extra)

    @property
    def step_warps(self) -> str:
        """Values of float32 take twice the registers, so there are twice the threads to hold them."""
        return self._by_size(self.warps, self.warps if self.warps > 4 else 2 * self.warps)

    @property
    def step_tile(self) -> str:
        """Half as many keys in float32, but no fewer than a tensor core's tile has."""
        return self._by_size(self.tile, max(self.tile // 2, 16))

    def _by_size(self, half: int, single: int) -> str:
        """A number for half precision and one for float32, as a launch chooses between them."""
        return str(half) if half == single else f"{half} if {self.one_key}.element_size() == 2 else {single}"

    @property
    def group(self) -> int:
        """Query heads of a program; all those of a key head, but for `blocks`."""
        return self.heads // self.programs

    @property
    def each(self) -> str:
        """The same as the kernel has it, which is told of it if there is a choice."""
        return "HEADS" if self.wide else str(self.group)

    @property
    def row_count(self) -> str:
        """Rows of a program as the kernel has them."""
        return "HEADS" if self.wide else str(self.rows)

    @property
    def blocks_of_head(self) -> str:
        """Programs among which the query heads of a key head are shared, as the kernel has them."""
        return f"({self.heads_of_key} // HEADS)" if self.wide else str(self.blocks)

    @property
    def programs_of_sequence(self) -> str:
        return f"({self.heads} // HEADS)" if self.wide else str(self.programs)

    @property
    def heads_of_key(self) -> int:
        """Query heads of a key head."""
        return self.heads // self.kv_heads

    @property
    def step_template(self) -> str:
        if self.fixed:
            return "attention_fixed"
        return "latent_step" if self.values_in_keys else "attention_step"

    @property
    def programs(self) -> int:
        """Programs of one sequence, for each share of the keys."""
        return self.kv_heads * self.blocks

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
    def query_parameters(self) -> str:
        return ", ".join(f"{name}: Tensor" for name in self.queries)

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

    def where(self, *masks: str) -> str:
        """The arguments of a store with some masks, in the order of its dims; an empty one is no mask."""
        joined = outer(masks)
        return f", mask={joined}" if joined else ""

    def read(self, *masks: str, other: str = "0.0") -> str:
        """The same of a load."""
        joined = outer(masks)
        return f", mask={joined}, other={other}" if joined else ""
