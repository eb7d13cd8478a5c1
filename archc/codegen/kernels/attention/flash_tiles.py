"""The sizes of what a program of attention by tiles holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """The queries and keys that a program holds at a time, and its warps.

    In float32 there are half as many of both, or `wide_queries`.  `stages`: how many iterations' loads are in
    flight; None leaves it to Triton.
    """

    queries: int
    keys: int
    warps: int
    stages: int | None = None
    wide_queries: int | None = None

    @property
    def options(self) -> list[str]:
        """The arguments of a launch that are for the compiler."""
        stages = [] if self.stages is None else [f"num_stages={self.stages}"]
        return [f"num_warps={self.warps}", *stages]

    def at(self, size: str) -> str:
        """A length as the launch takes it."""
        length: int = getattr(self, size)
        wide = self.wide_queries if size == "queries" else None
        wide = wide or max(length // 2, 16)
        return f"{length} if half else {wide}" if wide != length else str(length)


@dataclass(frozen=True)
class Tiles:
    """`forward` and `query_gradient` go over the keys for a tile of queries, `key_gradient` the other way.

    `bias_gradient` goes over what one tile of a bias is added for.
    """

    forward: Tile
    query_gradient: Tile
    key_gradient: Tile
    bias_gradient: Tile = Tile(32, 32, 4, stages=1)
