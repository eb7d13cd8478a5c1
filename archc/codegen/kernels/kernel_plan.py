"""What a template may see of a kernel: one plan for each template."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.attention.attention_plan import AttentionKernel
from archc.codegen.kernels.convolution.convolution_plan import ConvolutionKernel
from archc.codegen.kernels.experts.dispatched_plan import DispatchedKernel
from archc.codegen.kernels.experts.router_plan import RouterKernel
from archc.codegen.kernels.key_choice.key_choice_plan import KeyChoiceKernel
from archc.codegen.kernels.linear.after_plan import LinearAfterKernel
from archc.codegen.kernels.linear.linear_plan import LinearKernel
from archc.codegen.kernels.linear.loss_plan import LossKernel
from archc.codegen.kernels.norms.norm_plan import NormKernel
from archc.codegen.kernels.recurrence.recurrence_plan import RecurrenceKernel
from archc.codegen.kernels.recurrence.running_maximum_plan import RunningMaximumKernel
from archc.codegen.kernels.rope.latent_rope_plan import LatentRopeKernel
from archc.codegen.kernels.rope.position_scale_plan import PositionScaleKernel
from archc.codegen.kernels.rope.rope_plan import RopeKernel
from archc.codegen.kernels.rows.pointwise_plan import PointwiseKernel
from archc.codegen.kernels.rows.row_plan import RowKernel


@dataclass(frozen=True)
class GroupedKernel:
    """The products, sorts and sums of experts: for any sizes, so one plan for a model.

    `ops`: which of those with a kernel of their own the model has.
    """

    ops: frozenset[str]
    name: str = "grouped_linear"
    template: str = "grouped"


@dataclass(frozen=True)
class AbsorptionKernel:
    """The product that attention over a latent ends with: for any sizes, so one plan for a model.

    `in_place`: whether the target has an op that writes each head where it lies.
    """

    in_place: bool
    name: str = "absorb_values"
    template: str = "absorb_values"


@dataclass(frozen=True)
class WideLinearKernel:
    """Linear maps of half precision into float32: for any sizes, so one plan for a model."""

    name: str = "wide_linear"
    template: str = "wide_linear"


@dataclass(frozen=True)
class EmbeddingKernel:
    """The gradient of tables that rows are looked up in: for any sizes, so one plan for a model."""

    name: str = "embedding"
    template: str = "embedding"


@dataclass(frozen=True)
class CapacityKernel:
    """Which choices experts can take of a sequence, for any sizes: one plan for a model.

    choices: how many a token has, for each of its places in the model
    keeps:   whether choices of earlier tokens may be in a cache
    """

    name: str
    choices: tuple[int, ...]
    keeps: bool

    @property
    def template(self) -> str:
        return self.name

    @property
    def plain(self) -> str:
        """The op of the language that it stands for."""
        return {"within_capacity": "within", "drop_crowded": "drop"}[self.name]


ExpertsKernel = GroupedKernel | DispatchedKernel
# Kernels of fused ops, which are registered with PyTorch alike.
OpKernel = NormKernel | RopeKernel | LatentRopeKernel | PointwiseKernel | PositionScaleKernel | RowKernel
Kernel = (
    OpKernel
    | AttentionKernel
    | ConvolutionKernel
    | KeyChoiceKernel
    | AbsorptionKernel
    | LossKernel
    | LinearKernel
    | LinearAfterKernel
    | GroupedKernel
    | DispatchedKernel
    | RouterKernel
    | CapacityKernel
    | WideLinearKernel
    | EmbeddingKernel
    | RecurrenceKernel
    | RunningMaximumKernel
)
