"""Convolutions over tokens in groups: a linear map of the last tokens for each group of values."""

from typing import Any

from archc.ir.attributes import Width
from archc.ir.inits import ZEROS, Normal
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import OPS, Trait, Weight, declare, option
from archc.ir.ops.common import float_type
from archc.ir.types import Dim, TensorType, TypeMistake


def _groups(call: Any) -> tuple[int, int]:
    """How many groups x has, and the width of each."""
    x = float_type(call)
    match x.shape[2:]:
        case (int(groups), int(width)):
            return groups, width
    raise TypeMistake(f"needs groups [B, T, groups, width], not {x}", "x", hint="`split_heads` makes them")


def _weight_shape(call: Any) -> tuple[Dim, ...]:
    groups, inner = _groups(call)
    return groups * call.width, inner, call.taps


def _type(call: Any) -> TensorType:
    groups, inner = _groups(call)
    if call.first is not None and call.first.shape != (groups, inner):
        raise TypeMistake(f"needs a value for each of {groups} x {inner}, not {call.first}", "first")
    rows = call.weight.shape[0]
    type_: TensorType = call.x.with_shape(call.x.shape[0], call.positions.shape[1], groups, rows // groups)
    return type_


@declare(
    infer=_type,
    traits=(Trait.MATRIX,),
    past=("x",),
    reach=lambda attributes: attributes["taps"],
    options={"width": option(Width), "bias": option(bool, False)},
    weights=(
        Weight("weight", _weight_shape, Normal()),
        Weight("bias", lambda call: _weight_shape(call)[:1], ZEROS, when="bias", operand="offset"),
    ),
    flops=lambda call: 2 * int(_type(call).numel()) * _groups(call)[1] * int(call.taps),
    saves=("x", "weight"),
)
def group_conv(
    x: Tensor,
    positions: Tensor,
    key_positions: Tensor,
    first: Tensor | None,
    weight: Tensor,
    offset: Tensor | None = None,
    *,
    taps: Width,
) -> Tensor:
    """A linear map of the last tokens for each group: x [B, S, groups, in] -> [B, T, groups, width].

    weight [groups * width, in, taps], its last tap for the token itself.  Before the first token are zeros,
    or `first` [groups, in]; padding does not count.
    """
    wanted = positions[..., None] - torch.arange(taps - 1, -1, -1, device=x.device)  # [1 or B, T, taps]
    if positions.shape[1] == 1:  # what a ring holds is in any order
        there, place = (key_positions[..., None] == wanted).max(1, keepdim=True)
    else:
        ordered = key_positions.cummax(1).values  # padding has the position before it
        place = torch.searchsorted(ordered, wanted.flatten(1)).clamp(max=x.shape[1] - 1)
        there = (key_positions.gather(1, place) == wanted.flatten(1)).view_as(wanted)
    values = torch.take_along_dim(x, place.flatten(1)[..., None, None], 1)
    values = values.view(len(values), -1, taps, *x.shape[2:])
    there = (there & (wanted >= 0))[..., None, None]
    values = torch.where(there, values, torch.zeros_like(x[:, :1, None]) if first is None else first)
    product = torch.einsum("btngi,goin->btgo", values, weight.view(x.shape[2], -1, x.shape[3], taps))
    return product if offset is None else product + offset.view(x.shape[2], -1)


GROUP_CONV = OPS["group_conv"]
