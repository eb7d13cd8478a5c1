"""What the template of rotations may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.custom_op import CustomOp
from archc.codegen.masks import load_where, store_where
from archc.codegen.native_plan import NativeRope


@dataclass(frozen=True)
class Source:
    """Heads that a kernel reads: `offset` into a token's values."""

    name: str
    source: str
    source_width: int
    offset: int
    heads: int
    block: int
    mask: str  # which pairs there are, or "" for all
    lane_mask: str  # the same for values of pairs side by side

    @property
    def offset_term(self) -> str:
        return f"{self.offset} + " if self.offset else ""


@dataclass(frozen=True)
class Heads(Source):
    """Heads that are rotated or only copied."""

    head_dim: int  # of those that are copied another one, where values are wider or narrower than keys
    head_block: int
    width: int  # of all heads together
    weight: str  # the norm's weight, or ""
    rest_mask: str
    copy_mask: str

    @property
    def rest_load(self) -> str:
        return load_where(self.rest_mask)

    @property
    def rest_store(self) -> str:
        return store_where(self.rest_mask)

    @property
    def copy_load(self) -> str:
        return load_where(self.copy_mask)

    @property
    def copy_store(self) -> str:
        return store_where(self.copy_mask)


@dataclass(frozen=True)
class Rotation:
    """A kernel that rotates pairs, halves of a head apart or `interleaved`, and has norms beside it."""

    name: str
    equation: tuple[str, ...]
    layout: str
    op: CustomOp
    sources: tuple[tuple[str, int], ...]  # inputs and the width of a token in each
    pairs: int
    pair_block: int
    interleaved: bool
    eps: float
    offset: float  # of the norm's weight
    warps: int
    forward_parameters: tuple[str, ...]
    forward_arguments: tuple[str, ...]
    backward_parameters: tuple[str, ...]
    backward_arguments: tuple[str, ...]

    def load_pairs(self, part: Source, place: str, first: str, second: str) -> tuple[str, ...]:
        """Statements that load the pairs of heads in float32; neighbours come together, and are split."""
        if self.interleaved:
            values = f"tl.load({place} + lane{load_where(part.lane_mask)}).to(tl.float32)"
            return (
                f"{first}, {second} = tl.split(tl.reshape({values}, {part.block}, {self.pair_block}, 2))",
            )
        return tuple(
            f"{name} = tl.load({place} + {lane}{load_where(part.mask)}).to(tl.float32)"
            for name, lane in ((first, self.first), (second, self.second))
        )

    def store_pairs(self, part: Source, place: str, first: str, second: str) -> tuple[str, ...]:
        """Statements that store pairs where `load_pairs` found them."""
        if self.interleaved:
            return (
                f"tl.store({place} + lane, tl.interleave({first}, {second}){store_where(part.lane_mask)})",
            )
        return tuple(
            f"tl.store({place} + {lane}, {value}{store_where(part.mask)})"
            for value, lane in ((first, self.first), (second, self.second))
        )

    @property
    def shift(self) -> str:
        """What is added to the norm's weight, before it."""
        return f"{self.offset} + " if self.offset else ""

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
        return load_where(self.pair_mask)

    @property
    def pair_store(self) -> str:
        return store_where(self.pair_mask)


@dataclass(frozen=True)
class RopeKernel(Rotation):
    """Rotation of queries and keys, their norms before or behind it, values along with them."""

    source_shapes: dict[str, str]  # their dims behind [B, T]
    rotated: tuple[Heads, ...]
    copied: tuple[Heads, ...]
    head_dim: int  # of all heads that are rotated
    rest: int
    rest_block: int
    over_heads: bool  # the norm is over all heads together, its weight as wide
    turns_first: bool  # the norm is of what is rotated
    backward_warps: int
    stages: int  # how many tokens are under way at a time in the gradient of norms
    native: NativeRope | None
    template: str

    @property
    def heads(self) -> tuple[Heads, ...]:
        return (*self.rotated, *self.copied)

    @property
    def weights(self) -> tuple[str, ...]:
        return tuple(part.weight for part in self.rotated if part.weight)

    @property
    def done(self) -> str:
        """What is done to heads, in words."""
        if self.template == "rope":
            return "rotated"
        return "rotated and normed" if self.turns_first else "normed and rotated"

    @property
    def order(self) -> str:
        """The same of one token."""
        if self.turns_first:
            return "each head's rotation, then its norm"
        return "their norm, then their rotation" if self.over_heads else "each head's norm, then its rotation"

    @property
    def order_back(self) -> str:
        """The same of its gradient."""
        if self.turns_first:
            return "each head's norm, then the rotation the other way"
        whose = "the" if self.over_heads else "each head's"
        return f"the rotation the other way, then {whose} norm"

    @property
    def results(self) -> tuple[str, str]:
        """What is stored of a pair that was loaded and normed."""
        return ("a", "b") if self.turns_first else ("a * cos - b * sin", "b * cos + a * sin")

    @property
    def incoming(self) -> tuple[str, str]:
        """Names of a pair's gradient as it comes in."""
        return ("da", "db") if self.turns_first else ("turned_a", "turned_b")

    @property
    def gradients(self) -> tuple[str, str]:
        """What is stored of a pair's gradient."""
        if self.turns_first:
            return "da * cos + db * sin", "db * cos - da * sin"
        return "rstd * (da - a * mean)", "rstd * (db - b * mean)"

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

    def weight_place(self, lane: str, head: str = "head") -> str:
        """Where the norm's weight of the pairs' first or second values lies."""
        return f"{head} * {self.head_dim} + {lane}" if self.over_heads else lane

    def weight_load(self, part: Heads, head: str = "head") -> str:
        return load_where(part.mask.replace("head", head)) if self.over_heads else self.pair_load

    def weight_store(self, part: Heads, head: str = "head") -> str:
        return store_where(part.mask.replace("head", head)) if self.over_heads else self.pair_store

    def weight_sum(self, gradient: str) -> str:
        """The gradient of the norm's weight, of what each head adds to it."""
        return gradient if self.over_heads else f"tl.sum({gradient}, 0)"
