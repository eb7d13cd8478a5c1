"""The bias by distance that the kernel for attention over whole sequences adds to its scores."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.fused import Fused, power_of_two


@dataclass(frozen=True)
class FlashBias:
    """A bias that kernels compute of positions, and a constant tensor that they read.

    vector, doc, lines: that tensor, and the function that makes it for a device, by the op itself
    table:   whether rows of a table [buckets, heads] are added, else a slope of each head times the distance
    far:     the distance from which on all keys of a side have one row
    buckets: rows of the table
    """

    vector: str
    doc: str
    lines: tuple[str, ...]
    table: bool = False
    far: int = 0
    buckets: int = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the kernels are given for it."""
        return (self.vector, "table.contiguous()") if self.table else (self.vector,)

    @property
    def pointer_names(self) -> tuple[str, ...]:
        return tuple(f"{name.partition('.')[0]}_ptr" for name in self.inputs)

    @property
    def pointers(self) -> str:
        return ", ".join(self.pointer_names)

    @property
    def block(self) -> int:
        """Rows of the table that a program adds up."""
        return power_of_two(self.buckets)

    @property
    def store(self) -> str:
        return f", mask=bucket < {self.buckets}" if self.block != self.buckets else ""


def plan_flash_bias(fused: Fused) -> FlashBias | None:
    """The bias of a rule that makes one of positions, None where it makes none."""
    made = [step.op.name for step in fused.rule.steps if step.op.name in _PLANS]
    return _PLANS[made[0]](fused) if made else None


def relative_vector(fused: Fused) -> FlashBias:
    """The reference, for a table whose rows hold their own numbers, gives the row for each distance."""
    buckets, _ = map(int, fused.types["table"].shape)
    far = int(fused.node.attributes["distance"])
    return FlashBias(
        vector="buckets",
        doc=f"The table's rows for keys from {far} and more ahead of their query to {far} and more behind.",
        lines=(
            "positions = torch.zeros(1, 1, dtype=torch.int64, device=device)",
            f"key_positions = torch.arange({far}, -{far + 1}, -1, device=device)[None]",
            f"table = torch.arange({buckets}, device=device)[:, None]",
            str(fused.plain[0].code),
            "return bias.flatten().int()",
        ),
        table=True,
        far=far,
        buckets=buckets,
    )


def linear_vector(fused: Fused) -> FlashBias:
    """The reference gives the slopes as the bias of the next position."""
    return FlashBias(
        vector="slopes",
        doc="What each head adds to its scores for each position that a key is farther on.",
        lines=(
            "positions = torch.zeros(1, 1, dtype=torch.int64, device=device)",
            "key_positions = positions + 1",
            str(fused.plain[0].code),
            "return bias.flatten()",
        ),
    )


_PLANS = {"relative_bias": relative_vector, "alibi_bias": linear_vector}
