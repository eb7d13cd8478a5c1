"""What the template of queries and of a latent, beside their rotary parts, may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.masks import load_where, store_where
from archc.codegen.kernels.rope.heads_plan import Source
from archc.codegen.kernels.rope.rope_plan import Rotation


@dataclass(frozen=True)
class LedHeads(Source):
    """Heads of `head_dim` values: the first `lead` of them copied or `normed`, the others rotated."""

    head_dim: int
    lead: int
    lead_block: int
    lead_mask: str  # which of the first values there are, or "" for all
    normed: bool

    @property
    def head(self) -> str:
        """The variable of the heads' places."""
        return f"{self.name}_head"

    @property
    def column(self) -> str:
        """The variable of the first values' places."""
        return f"{self.name}_column"

    @property
    def place(self) -> str:
        """Where heads begin in what a token has."""
        return f"{self.offset_term}{self.head} * {self.head_dim}"

    @property
    def width(self) -> int:
        """Of all heads together."""
        return self.heads * self.head_dim

    @property
    def elements(self) -> int:
        """Values in registers at once."""
        return self.block * self.lead_block

    @property
    def load(self) -> str:
        return load_where(self.lead_mask)

    @property
    def store(self) -> str:
        return store_where(self.lead_mask)


@dataclass(frozen=True)
class LatentRopeKernel(Rotation):
    """Queries and the one head of a latent: their last values rotated, the latent's others normed."""

    queries: LedHeads
    latent: LedHeads
    weight: str  # the norm's, or ""
    template: str = "latent_rope"
    native: None = None  # on a CPU it is plain PyTorch

    @property
    def parts(self) -> tuple[LedHeads, ...]:
        return self.queries, self.latent
