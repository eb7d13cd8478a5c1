"""The bias that the kernel for attention over whole sequences adds to its scores."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.attention.bias_vector import BiasVector, farthest, linear_vector, relative_vector
from archc.codegen.kernels.fused import Fused, power_of_two
from archc.ir.types import TensorType


@dataclass(frozen=True)
class FlashBias:
    """A bias that kernels compute of positions, or one that is given.

    vector:    the constant tensor that they compute it from; None for what is given
    pairs:     whether that is of each query and key, [1 or B, 1 or heads, T, S], and not [B, heads, 1, S]
    shared:    whether all heads of pairs have one
    table:     whether it adds rows of a table [buckets, heads], else a slope of each head times the distance
    far:       the distance from which on all keys of a side have one row
    buckets:   rows of the table
    distances: how many values [B, T, heads, distances] each query has for how far keys are before it
    first:     the distance of the first of them
    nearest:   whether other distances get the nearest of them, and not 0
    """

    vector: BiasVector | None
    pairs: bool = False
    shared: bool = False
    table: bool = False
    far: int = 0
    buckets: int = 0
    distances: int = 0
    first: int = 0
    nearest: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors that it is computed from."""
        if self.vector is None:
            return ("values",) if self.distances else ("bias",)
        return (self.vector.name, "table") if self.table else (self.vector.name,)

    @property
    def strides(self) -> dict[str, str]:
        """How far sequences, heads and queries lie apart in what queries have, as a launch computes it."""
        if not (self.pairs or self.distances):
            return {}
        (name,), (head, query) = self.inputs, (1, 2) if self.pairs else (2, 1)
        of_heads = {} if self.shared else {"bias_head_stride": f"{name}.stride({head})"}
        of_queries = {"bias_stride": f"{name}.stride({query})"}
        return {"bias_batch_stride": f"_batch_stride({name})", **of_heads, **of_queries}

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
    """The bias of a rule that makes one of positions or is given one; None for none, or one it cannot be."""
    made = {step.op.name for step in fused.rule.steps}
    if "relative_bias" in made:
        buckets = int(fused.types["table"].shape[0])
        return FlashBias(relative_vector(fused), table=True, far=farthest(fused), buckets=buckets)
    if "alibi_bias" in made:
        return FlashBias(linear_vector(fused))
    if "distance_bias" in made:
        given = fused.node.attributes
        return FlashBias(
            None,
            distances=fused.width("values"),
            first=int(given["first"]),
            nearest=given["beyond"] == "nearest",
        )
    return _given(fused.types["bias"]) if "bias" in fused.types else None


def _given(type_: TensorType) -> FlashBias | None:
    """A bias that is given: that of keys alone, or of pairs; None for one of queries alone."""
    _, heads, queries, keys = type_.shape
    if queries == 1:
        return FlashBias(None)
    return FlashBias(None, pairs=True, shared=heads == 1) if keys != 1 else None
