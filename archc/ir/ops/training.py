"""Ops that are at work where a loss is computed in training mode, and nowhere else.

Their references are what they do otherwise: a package has functions of these names in its module `losses`.
"""

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor
from archc.ir.op import OPS, Trait, declare
from archc.ir.ops.balance import choice_weights
from archc.ir.ops.common import float_type
from archc.ir.ops.linear import WIDE_LINEAR, wide_linear
from archc.ir.types import DType


@declare(infer=float_type, traits=(Trait.PER_TOKEN, Trait.EFFECT))
def jitter(x: Tensor, *, amount: float) -> Tensor:
    """x; when a loss is computed in training, x times uniform noise from 1 - amount to 1 + amount."""
    return x


@declare(
    infer=lambda call: call.x.with_width(call.weight.shape[0]).with_dtype(DType.F32),
    traits=(Trait.PER_TOKEN, Trait.LINEAR, Trait.MATRIX, Trait.EFFECT),
    flops=WIDE_LINEAR.flops,
    saves=("x",),
    internal=True,
    module="losses",
)
def jittered_linear(x: Tensor, weight: Tensor, offset: Tensor | None = None, *, amount: float) -> Tensor:
    """`wide_linear` of x; when a loss is computed in training, of x in float32 with `jitter`."""
    product: Tensor = wide_linear(x, weight, offset)
    return product


@declare(infer=lambda call: float_type(call, "weights"), traits=(Trait.PER_TOKEN, Trait.EFFECT))
def sampled(weights: Tensor, *, surely: Width, factor: float) -> Tensor:
    """The weights of choices; when a loss is computed in training, 0 for some after the first `surely`.

    Each of these is kept with probability min(1, factor * weight), as GShard keeps its second with factor 2.
    """
    return weights


@declare(infer=choice_weights, traits=(Trait.PER_TOKEN, Trait.EFFECT))
def drop(weights: Tensor, chosen: Tensor, key_positions: Tensor, *, count: Width, factor: float) -> Tensor:
    """The weights of choices; when a loss is computed in training, 0 for choices of an expert that is full.

    Of each sequence an expert takes `factor` times its even share, all first choices before all second ones.
    A choice without weight takes no room.
    """
    return weights


@declare(infer=choice_weights, traits=(Trait.PER_TOKEN, Trait.EFFECT), internal=True)
def drop_crowded(
    weights: Tensor, chosen: Tensor, key_positions: Tensor, *, count: Width, factor: float
) -> Tensor:
    """`drop` by a kernel."""
    return weights


JITTER, JITTERED_LINEAR, SAMPLED, DROP, DROP_CROWDED = IN_TRAINING = tuple(
    OPS[name] for name in ("jitter", "jittered_linear", "sampled", "drop", "drop_crowded")
)
