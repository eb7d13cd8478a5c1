"""What the template of rotations may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.masks import load_where, store_where
from archc.codegen.kernels.rope.heads_plan import Heads, Lane, Source
from archc.codegen.kernels.signature import Signature
from archc.codegen.native.native_plan import NativeRope


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
    signature: Signature
    backward_signature: Signature

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


@dataclass(frozen=True)
class RopeKernel(Rotation):
    """Rotation of queries and keys, their norms before or after it, values along with them."""

    source_shapes: dict[str, str]  # their dims after [B, T]
    result_shapes: dict[str, str]
    worked: tuple[Heads, ...]  # rotated or normed
    copied: tuple[Heads, ...]
    head_dim: int  # of all heads that are rotated
    over_heads: bool  # the norm is over all heads together, its weight as wide
    turns_first: bool  # the norm is of what is rotated
    backward_warps: int
    stages: int  # how many tokens are under way at a time in the gradient of norms
    native: NativeRope | None
    template: str

    @property
    def weights(self) -> tuple[str, ...]:
        return tuple(part.weight for part in self.weighted)

    @property
    def weighted(self) -> tuple[Heads, ...]:
        """The first heads of each result whose norm has a weight."""
        return tuple(part for part in self.worked if part.weight and not part.first)

    @property
    def rests(self) -> tuple[Heads, ...]:
        """One part for each variable that counts values which are not rotated."""
        return tuple({part.rest_name: part for part in self.worked if part.rest}.values())

    def done(self, part: Heads) -> str:
        """What is done to heads, in words."""
        if not (part.turned and part.normed):
            return "rotated" if part.turned else "normed"
        return "rotated and normed" if self.turns_first else "normed and rotated"

    @property
    def order(self) -> str:
        """The same of one token."""
        if not self.pairs:
            return "each head's norm"
        if self.turns_first:
            return "each head's rotation, then its norm"
        return "their norm, then their rotation" if self.over_heads else "each head's norm, then its rotation"

    @property
    def order_back(self) -> str:
        """The same of its gradient."""
        if not self.pairs:
            return "each head's norm"
        if self.turns_first:
            return "each head's norm, then the rotation the other way"
        whose = "the" if self.over_heads else "each head's"
        return f"the rotation the other way, then {whose} norm"

    def load_lanes(self, part: Heads, place: str, names: Sequence[str]) -> tuple[str, ...]:
        """Statements that load all values of heads in float32, each lane under its name."""
        pairs = self.load_pairs(part, place, names[0], names[1]) if part.turned else ()
        rest = f"{names[-1]} = tl.load({place} + {part.rest_place}{part.rest_load}).to(tl.float32)"
        return (*pairs, rest) if part.rest else pairs

    def store_lanes(self, part: Heads, place: str, values: Sequence[str]) -> tuple[str, ...]:
        """Statements that store them where `load_lanes` found them."""
        pairs = self.store_pairs(part, place, values[0], values[1]) if part.turned else ()
        rest = f"tl.store({place} + {part.rest_place}, {values[-1]}{part.rest_store})"
        return (*pairs, rest) if part.rest else pairs

    def results(self, part: Heads) -> list[str]:
        """What is stored of lanes that were loaded and normed."""
        turned = part.turned and not self.turns_first
        pair = ["a * cos - b * sin", "b * cos + a * sin"] if turned else []
        return [*pair, *(lane.name for lane in part.lanes[len(pair) :])]

    def incoming(self, part: Heads) -> list[str]:
        """Names of the lanes' gradients as they come in."""
        pair = ["turned_a", "turned_b"] if part.turned and not self.turns_first else []
        return [*pair, *(f"d{lane.name}" for lane in part.lanes[len(pair) :])]

    def gradients(self, part: Heads) -> list[str]:
        """What is stored of the lanes' gradients."""
        if not self.turns_first:
            return [f"rstd * (d{lane.name} - {lane.name} * mean)" for lane in part.lanes]
        pair = ["da * cos + db * sin", "db * cos - da * sin"]
        return [*pair, *(f"d{lane.name}" for lane in part.lanes[len(pair) :])]

    def scale(self, part: Heads) -> str:
        """One over the root mean square of each head, or of all of them."""
        mean = self._mean(part, "{} * {}")
        if self.over_heads:
            return f"1.0 / tl.sqrt({mean} + {self.eps})"
        return f"(1.0 / tl.sqrt({mean} + {self.eps}))[:, None]"

    def mean(self, part: Heads) -> str:
        """The gradient's mean along the normed values of each head, or of all of them."""
        mean = self._mean(part, "d{} * {}")
        return mean if self.over_heads else f"({mean})[:, None]"

    def _mean(self, part: Heads, product: str) -> str:
        along = "" if self.over_heads else ", 1"
        sums = [f"tl.sum({product.replace('{}', lane.name)}{along})" for lane in part.lanes]
        total = f"({' + '.join(sums)})" if len(sums) > 1 else sums[0]
        return f"{total} / {part.width if self.over_heads else part.head_dim}"

    def weight_width(self, part: Heads) -> int:
        return part.width if self.over_heads else part.head_dim

    def weight_place(self, part: Heads, lane: Lane, head: str = "head") -> str:
        """Where the norm's weight of a lane's values lies."""
        return f"{head} * {part.head_dim} + {lane.place}" if self.over_heads else lane.place

    def weight_load(self, lane: Lane, head: str = "head") -> str:
        return load_where(lane.present.replace("head", head) if self.over_heads else lane.mask)

    def weight_store(self, lane: Lane, head: str = "head") -> str:
        return store_where(lane.present.replace("head", head) if self.over_heads else lane.mask)

    def weight_sum(self, part: Heads, lane: Lane) -> str:
        """The gradient of the norm's weight, of what each head adds to it."""
        names = [f"d{each.name}_weight_{lane.name}" for each in self.worked if each.weight == part.weight]
        return names[0] if self.over_heads else " + ".join(f"tl.sum({name}, 0)" for name in names)
