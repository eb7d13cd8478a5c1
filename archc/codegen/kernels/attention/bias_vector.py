"""The constant tensors that kernels of attention compute a bias by distance from."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.fused import Fused


@dataclass(frozen=True)
class BiasVector:
    """A constant tensor, and the function that makes it for a device: `lines`, by the op itself."""

    name: str
    doc: str
    lines: tuple[str, ...]


def relative_vector(fused: Fused) -> BiasVector:
    """The table's row for each distance, as the op finds it in a table whose rows hold their own numbers."""
    buckets, _ = map(int, fused.types["table"].shape)
    far = farthest(fused)
    return BiasVector(
        name="buckets",
        doc=f"The table's rows for keys from {far} or more after their query to {far} or more before it.",
        lines=(
            "positions = torch.zeros(1, 1, dtype=torch.int64, device=device)",
            f"key_positions = torch.arange({far}, -{far + 1}, -1, device=device)[None]",
            f"table = torch.arange({buckets}, device=device)[:, None]",
            str(fused.plain[0].code),
            "return bias.flatten().int()",
        ),
    )


def linear_vector(fused: Fused) -> BiasVector:
    """The slope of each head, as the op's bias for the next position."""
    return BiasVector(
        name="slopes",
        doc="What each head adds to its scores for each position that a key is farther on.",
        lines=(
            "positions = torch.zeros(1, 1, dtype=torch.int64, device=device)",
            "key_positions = positions + 1",
            str(fused.plain[0].code),
            "return bias.flatten()",
        ),
    )


def farthest(fused: Fused) -> int:
    """The distance from which on all keys of a side have one row of the table."""
    return int(fused.node.attributes["distance"])
