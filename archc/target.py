"""What a target can run.  Passes read it when they decide what to fuse; a new target touches no pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

MAX_ROW = 1 << 15  # a norm keeps a whole row in registers
MAX_HEAD = 1 << 10  # attention keeps a weighted sum of values there


@dataclass(frozen=True)
class Target:
    """A place that generated code runs on.

    `families` are the kinds of kernels it has: "norm", "row", any ops along rows, "rope", "latent_rope",
    "pointwise", "position_scale", "convolution" and "attention" for fused ops, "loss", "steps", attention of
    single tokens after a cache, "flash", attention that PyTorch's own does not cover, "key_choice", the keys
    that a single token sees, "linear", linear maps of few rows, "router", the choice of experts, and
    "experts", their products, "wide_linear", linear maps whose results are wider than their operands,
    "embedding", the gradient of tables, "recurrence", states that each token changes.

    bandwidth:   bytes a second from memory, and
    matmul_rate: multiplications and additions a second, in bfloat16: what a roofline needs
    max_row:     widest row of a norm
    max_head:    widest head that attention is given
    """

    name: str
    description: str
    families: frozenset[str]
    bandwidth: float
    matmul_rate: float
    max_row: int = MAX_ROW
    max_head: int = MAX_HEAD

    def without(self, family: str) -> Target:
        """The target without a kind of kernels, for a model that has no use for them."""
        return replace(self, families=self.families - {family})


CUDA = Target(
    "cuda",
    "Triton kernels on NVIDIA and AMD GPUs, plain PyTorch elsewhere",
    frozenset(
        {
            "norm",
            "row",
            "rope",
            "latent_rope",
            "pointwise",
            "position_scale",
            "convolution",
            "attention",
            "loss",
            "steps",
            "flash",
            "key_choice",
            "linear",
            "router",
            "experts",
            "wide_linear",
            "embedding",
            "recurrence",
        }
    ),
    bandwidth=3.35e12,  # NVIDIA H100 SXM, by its data sheet
    matmul_rate=989e12,
)
CPU = Target(
    "cpu",
    "plain PyTorch only",
    frozenset({"attention"}),
    bandwidth=200e9,  # a socket of a server, in round numbers
    matmul_rate=4e12,
)

TARGETS = {target.name: target for target in (CUDA, CPU)}
