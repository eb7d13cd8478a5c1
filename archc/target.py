"""What a target can run.  Passes read it when they decide what to fuse; a new target touches no pass."""

from __future__ import annotations

from dataclasses import dataclass

MAX_ROW = 1 << 15  # a norm keeps a whole row in registers


@dataclass(frozen=True)
class Target:
    """A place that generated code runs on.

    `families` are the kinds of kernels it has: "norm", "rope", "pointwise" and "attention" for fused ops,
    "loss", and "steps", attention of single tokens behind a cache.
    """

    name: str
    description: str
    families: frozenset[str]
    max_row: int = MAX_ROW


CUDA = Target(
    "cuda",
    "Triton kernels on NVIDIA and AMD GPUs, plain PyTorch elsewhere",
    frozenset({"norm", "rope", "pointwise", "attention", "loss", "steps"}),
)
CPU = Target("cpu", "plain PyTorch only", frozenset({"attention"}))

TARGETS = {target.name: target for target in (CUDA, CPU)}
