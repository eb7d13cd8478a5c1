"""What the template of the loss may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.masks import store_where
from archc.codegen.names import camel_case


@dataclass(frozen=True)
class LossKernel:
    """Cross entropy over the logits of a linear map, in chunks of `rows`; `rows_at_once` may be a single one.

    block: lanes that a row's logits are spread over
    depth: how many of them a lane takes at a time
    `triton`: whether the target has a kernel for it; `bias`: whether the linear map has one; `tail`: whether
    something follows it.
    """

    name: str
    log_probs: str
    vocabulary: int
    width: int
    block: int
    depth: int
    warps: int
    rows: int
    rows_at_once: int
    triton: bool
    bias: bool
    tail: bool
    template: str = "linear_cross_entropy"

    @property
    def loss_class(self) -> str:
        return camel_case(self.name)

    @property
    def log_probs_class(self) -> str:
        return camel_case(self.log_probs)

    @property
    def _mask(self) -> str:
        return f"start + place < {self.vocabulary}" if self.vocabulary % self.step else ""

    @property
    def step(self) -> int:
        """How many logits all lanes take at a time."""
        return self.block * self.depth

    @property
    def load(self) -> str:
        return f", mask={self._mask}, other=-3.0e38" if self._mask else ""

    @property
    def store(self) -> str:
        return store_where(self._mask)
