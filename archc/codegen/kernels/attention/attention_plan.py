"""What the template of attention may see."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.code import Line
from archc.codegen.kernels.attention.attention import Attention
from archc.codegen.kernels.attention.bias_vector import BiasVector
from archc.codegen.kernels.attention.flash_plan import FlashKernel
from archc.codegen.kernels.attention.step_plan import StepKernel
from archc.codegen.kernels.by_document import by_document
from archc.codegen.native.native_plan import NativeAttention


@dataclass(frozen=True)
class AttentionKernel(Attention):
    """One attention: PyTorch's scaled-dot-product attention, and kernels for what that does not do well.

    mask:    the arguments that tell the runtime which keys a query sees
    plain:   the statements in PyTorch, where scaled-dot-product attention cannot do what is done to scores
    extra:   operands besides queries, keys and values: their names, and how a piece reads them
    rows:    those of them that have a row for each token
    chooses: whether each query sees keys at given places alone, the same for all heads
    keeps:   whether keys and values may be in a cache, to which it adds those of new tokens
    flash:   the kernel for whole sequences, if there is one
    step:    the kernel for one new token of each sequence, if there is one
    native:  the C++ function for one new token, if there is one
    """

    equation: tuple[str, ...]
    layout: str
    mask: tuple[str, ...]
    plain: tuple[Line, ...]
    extra: tuple[tuple[str, str], ...]
    rows: tuple[str, ...]
    chooses: bool
    keeps: bool
    flash: FlashKernel | None
    step: StepKernel | None
    native: NativeAttention | None
    template: str = "attention"

    @property
    def bias_by_key(self) -> bool:
        """Whether a bias that is given has a number for each key, of which those of chosen ones are taken."""
        return any(name == "bias" and "keys" in piece for name, piece in self.extra)

    @property
    def bias_vector(self) -> BiasVector | None:
        """The constant tensor that its kernels compute a bias from."""
        biases = [kernel.bias for kernel in (self.flash, self.step) if kernel and kernel.bias]
        return biases[0].vector if biases else None

    @property
    def grouped(self) -> bool:
        return self.heads > self.kv_heads

    @property
    def query_parameters(self) -> str:
        return ", ".join(f"{name}: Tensor" for name in self.form.queries)

    @property
    def by_document(self) -> list[str]:
        """What its function does with documents that share rows."""
        given = (*self.form.queries, "k", *(() if self.form.one_slot else ("v",)))
        parameters = (*given, "span", *(name for name, _ in self.extra))
        return by_document(self.name, parameters, (*given, *self.rows), "span.documents")

    @property
    def extra_parameters(self) -> str:
        return "".join(f", {name}: Tensor" for name, _ in self.extra)

    @property
    def extra_pieces(self) -> str:
        return "".join(f", {piece}" for _, piece in self.extra)
