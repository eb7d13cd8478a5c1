"""The bias that the kernel for attention over whole sequences adds to its scores."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.attention.bias_vector import BiasVector, farthest, linear_vector, relative_vector
from archc.codegen.kernels.fused import Fused, power_of_two


@dataclass(frozen=True)
class FlashBias:
    """A bias that kernels compute of positions, or one that each key has.

    vector:  the constant tensor that they compute it from; None for what keys have, [B, heads, 1, S]
    table:   whether rows of a table [buckets, heads] are added, else a slope of each head times the distance
    far:     the distance from which on all keys of a side have one row
    buckets: rows of the table
    """

    vector: BiasVector | None
    table: bool = False
    far: int = 0
    buckets: int = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors that it is computed from."""
        if self.vector is None:
            return ("bias",)
        return (self.vector.name, "table") if self.table else (self.vector.name,)

    @property
    def pointers(self) -> str:
        return ", ".join(f"{name}_ptr" for name in self.inputs)

    @property
    def block(self) -> int:
        """Rows of the table that a program adds up."""
        return power_of_two(self.buckets)

    @property
    def store(self) -> str:
        return f", mask=bucket < {self.buckets}" if self.block != self.buckets else ""


def plan_flash_bias(fused: Fused) -> FlashBias | None:
    """The bias of a rule that makes one of positions or is given one of keys, None for any other or none."""
    made = {step.op.name for step in fused.rule.steps}
    if "relative_bias" in made:
        buckets = int(fused.types["table"].shape[0])
        return FlashBias(relative_vector(fused), table=True, far=farthest(fused), buckets=buckets)
    if "alibi_bias" in made:
        return FlashBias(linear_vector(fused))
    return FlashBias(None) if "bias" in fused.types and fused.types["bias"].shape[2] == 1 else None
