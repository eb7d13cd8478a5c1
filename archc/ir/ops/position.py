"""Positions: rotary tables and rotation."""

from dataclasses import dataclass
from typing import Any, Literal

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import Trait, declare
from archc.ir.records import Record, record
from archc.ir.types import DType, TensorType, TypeMistake, shape_text


class Scaling(Record):
    """How rotary frequencies are stretched for a longer context."""


@record
@dataclass(frozen=True)
class LinearScaling(Scaling):
    """Every frequency divided by `factor`."""

    factor: float


@record
@dataclass(frozen=True)
class Llama3(Scaling):
    """Llama 3.1: high frequencies kept, low ones divided by `factor`, a ramp between.

    `low` and `high` count turns within the `original` context: fewer than `low` is a low frequency.
    """

    factor: float
    low: float
    high: float
    original: Width


@record
@dataclass(frozen=True)
class Rope(Record):
    """Rotary position embedding (Su et al. 2021).

    `width` is how many of a head's values are rotated, from the first (None: all); `pairing` which values
    make a pair: `half`, value i with i + width/2, or `interleaved`, 2 i with 2 i + 1.
    """

    theta: float
    width: Width | None = None
    pairing: Literal["half", "interleaved"] = "half"
    scaling: Scaling | None = None


def _table_type(call: Any) -> tuple[TensorType, TensorType]:
    width = call.rope.width or call.width
    if width % 2:
        raise TypeMistake(f"cannot rotate {width} values: they are taken in pairs")
    if width > call.width:
        raise TypeMistake(f"cannot rotate {width} values of a head that has {call.width}")
    type_ = TensorType((*call.positions.shape, width // 2), DType.F32)
    return type_, type_


# In float32 whatever the model's dtype: published weights were trained with these very roundings.
@declare(infer=_table_type, traits=(Trait.PER_TOKEN,))
def rope_table(positions: Tensor, *, rope: Rope, width: Width) -> tuple[Tensor, Tensor]:
    """cos and sin of position * theta^(-2 i / width), i < width/2, in float32: [B, T, width/2] each."""
    rotated = rope.width or width
    exponents = torch.arange(0, rotated, 2, device=positions.device).float() / rotated
    frequencies = 1.0 / rope.theta**exponents
    scaling = rope.scaling
    if isinstance(scaling, LinearScaling):
        frequencies = frequencies / scaling.factor
    if isinstance(scaling, Llama3):
        turns = scaling.original * frequencies / (2 * torch.pi)
        ramp = (turns - scaling.low) / (scaling.high - scaling.low)
        blend = (1 - ramp) * frequencies / scaling.factor + ramp * frequencies
        slow = torch.where(turns < scaling.low, frequencies / scaling.factor, blend)
        frequencies = torch.where(turns > scaling.high, frequencies, slow)
    angles = positions[..., None].float() * frequencies
    return angles.cos(), angles.sin()


def _rotated_type(call: Any) -> TensorType:
    if len(call.x.shape) != 4:
        raise TypeMistake(f"needs heads [B, T, heads, head_dim], not {call.x}", "x")
    if isinstance(call.x.width, int) and 2 * call.cos.width > call.x.width:
        raise TypeMistake(f"the table {shape_text(call.cos.shape)} is wider than {call.x}", "x", "cos")
    type_: TensorType = call.x
    return type_


@declare(
    infer=_rotated_type,
    traits=(Trait.PER_TOKEN,),
    flops=lambda call: 3 * int(call.x.numel()),
)
def rotate_by(
    x: Tensor, cos: Tensor, sin: Tensor, *, pairing: Literal["half", "interleaved"] = "half"
) -> Tensor:
    """Turn each pair (a, b) of a head's first values into (a cos - b sin, b cos + a sin).

    x: [B, T, heads, head_dim]; cos and sin: [B, T, pairs].
    """
    pairs = cos.shape[-1]
    cos, sin = (table[:, :, None, :].to(x.dtype) for table in (cos, sin))
    rotated, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if pairing == "half":
        a, b = rotated[..., :pairs], rotated[..., pairs:]
        rotated = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    else:
        a, b = rotated[..., 0::2], rotated[..., 1::2]
        rotated = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    return torch.cat([rotated, rest], -1)
