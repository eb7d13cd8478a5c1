"""Positions: rotary frequencies, tables and rotation; sinusoids."""

from dataclasses import dataclass
from typing import Any, Literal

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import Trait, declare
from archc.ir.ops.common import demand_positions, float_type, known_width
from archc.ir.ops.numbers import vector
from archc.ir.ops.scaling import Dynamic, LinearScaling, Llama3, Longrope, Scaling, Yarn
from archc.ir.records import Record, record
from archc.ir.types import DType, TensorType, TypeMistake, shape_text


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

    @property
    def magnitude(self) -> float:
        """What cos and sin are multiplied by."""
        return self.scaling.magnitude if self.scaling is not None else 1.0


def _frequencies_type(call: Any) -> TensorType:
    width, scaling = call.rope.width or call.width, call.rope.scaling
    if call.rope.theta <= 0:
        raise TypeMistake(f"`{call.rope}` needs a theta above 0")
    if width % 2:
        raise TypeMistake(f"cannot rotate {width} values: they are taken in pairs")
    if width > call.width:
        raise TypeMistake(f"cannot rotate {width} values of a head that has {call.width}")
    if isinstance(scaling, Dynamic) and width == 2:
        raise TypeMistake(f"`{scaling}` needs more than one pair of values")
    if isinstance(scaling, Yarn):
        _check_ramp(scaling, call.rope.theta, width)
    if isinstance(scaling, Longrope):
        for factors in (scaling.short, scaling.long):
            if len(factors) != width // 2:
                raise TypeMistake(f"{len(factors)} factors do not fit {width // 2} pairs of values")
    return TensorType(
        (call.positions.shape[0], 1, width // 2) if _by_length(call.rope) else (width // 2,), DType.F32
    )


def _by_length(rope: Rope) -> bool:
    """Whether frequencies depend on how long a sequence has become."""
    return rope.scaling is not None and rope.scaling.by_length


def _check_ramp(scaling: Yarn, theta: float, width: int) -> None:
    if scaling.fast < scaling.slow:
        raise TypeMistake(f"`fast` must not be below `slow` in `{scaling}`")
    try:
        scaling.ramp(theta, width)
    except (ArithmeticError, ValueError):
        raise TypeMistake(f"`{scaling}` needs a theta above 1, and turns above 0") from None


# In float32 whatever the model's dtype: models were trained with frequencies of this very rounding.
@declare(
    infer=_frequencies_type,
    traits=(Trait.PER_TOKEN,),
    fixed=lambda attributes: not _by_length(attributes["rope"]),
)
def rope_frequencies(positions: Tensor, *, rope: Rope, width: Width) -> Tensor:
    """Frequencies of pairs, theta^(-2 i / width) for i < width/2, with their scaling, in float32: [width/2].

    A scaling in `rope` that depends on how long a sequence has become gives each its own: [B, 1, width/2].
    """
    rotated = rope.width or width
    exponents = torch.arange(0, rotated, 2, device=positions.device).float() / rotated
    periods = rope.theta**exponents
    scaling = rope.scaling
    if isinstance(scaling, Dynamic):
        length = positions.amax(-1)[:, None, None].float() + 1
        stretch = scaling.factor * length.clamp(min=scaling.original) / scaling.original - (
            scaling.factor - 1
        )
        periods = (rope.theta * stretch ** (rotated / (rotated - 2))) ** exponents
    if isinstance(scaling, Longrope):
        length = positions.amax(-1)[:, None, None] + 1
        short = vector(scaling.short, positions.device, torch.float32)
        long = vector(scaling.long, positions.device, torch.float32)
        periods = torch.where(length > scaling.original, long, short) * periods
    frequencies = 1.0 / periods
    if isinstance(scaling, LinearScaling):
        frequencies = frequencies / scaling.factor
    if isinstance(scaling, Llama3):
        turns = scaling.original / (2 * torch.pi / frequencies)
        ramp = (turns - scaling.low) / (scaling.high - scaling.low)
        blend = (1 - ramp) * frequencies / scaling.factor + ramp * frequencies
        slow = torch.where(turns < scaling.low, frequencies / scaling.factor, blend)
        frequencies = torch.where(turns > scaling.high, frequencies, slow)
    if isinstance(scaling, Yarn):
        first, last = scaling.ramp(rope.theta, rotated)
        pairs = torch.arange(rotated // 2, device=positions.device).float()
        kept = 1 - ((pairs - first) / (last - first)).clamp(0, 1)
        frequencies = 1.0 / (scaling.factor * periods) * (1 - kept) + frequencies * kept
    return frequencies


def _table_type(call: Any) -> tuple[TensorType, TensorType]:
    demand_positions(call.positions, call.positions)
    type_ = TensorType((*call.positions.shape, call.frequencies.width), DType.F32)
    return type_, type_


@declare(infer=_table_type, traits=(Trait.PER_TOKEN,))
def rope_table(positions: Tensor, frequencies: Tensor, *, magnitude: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and sin of position * frequency in float32: [B, T, pairs] each.

    Both are multiplied by `magnitude`.
    """
    # The product in float64: in float32 it is wrong by up to 0.03 at position 10^6.
    angles = positions[..., None].double() * frequencies
    if magnitude != 1.0:
        return (magnitude * angles.cos()).float(), (magnitude * angles.sin()).float()
    return angles.cos().float(), angles.sin().float()


def _rotated_type(call: Any) -> TensorType:
    if len(call.x.shape) != 4:
        raise TypeMistake(f"needs heads [B, T, heads, head_dim], not {call.x}", "x")
    for name in ("cos", "sin"):
        table = getattr(call, name)
        if len(table.shape) != 3 or table.shape[1] != call.x.shape[1]:
            raise TypeMistake(f"needs a table [B, T, pairs] for {call.x}, not {table}", name)
    if isinstance(call.x.width, int) and 2 * call.cos.width > call.x.width:
        raise TypeMistake(f"the table {shape_text(call.cos.shape)} is wider than {call.x}", "x", "cos")
    type_: TensorType = call.x
    return type_


@declare(
    infer=_rotated_type,
    traits=(Trait.PER_TOKEN,),
    flops=lambda call: 3 * int(call.x.numel()),
    saves=("cos", "sin"),
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


def _sinusoid_type(call: Any) -> TensorType:
    type_ = float_type(call)
    if call.theta <= 0:
        raise TypeMistake(f"theta must be above 0, not {call.theta:g}")
    if known_width(type_) % 2:
        raise TypeMistake(f"sine and cosine need an even width, not {type_}", "x")
    if tuple(type_.shape[:-1]) != tuple(call.positions.shape):
        raise TypeMistake(f"{type_} has not the tokens of positions {shape_text(call.positions.shape)}", "x")
    return type_


@declare(infer=_sinusoid_type, traits=(Trait.PER_TOKEN,), widths=("x",))
def sinusoid(
    x: Tensor,
    positions: Tensor,
    *,
    theta: float = 10000.0,
    layout: Literal["interleaved", "halves"] = "interleaved",
) -> Tensor:
    """Position embeddings for x [B, T, d]: sin and cos of position * theta^(-2 i / d), i < d/2, in its dtype.

    `layout` is how both lie (Vaswani et al. 2017): `interleaved`, sin at 2 i and cos at 2 i + 1, or `halves`,
    all sines before all cosines.
    """
    width = x.shape[-1]
    places = torch.arange(0, width, 2, device=x.device, dtype=torch.float64)
    angles = positions[..., None] * theta ** (-places / width)
    if layout == "halves":
        return torch.cat([angles.sin(), angles.cos()], -1).to(x.dtype)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2).to(x.dtype)
