"""Several values of each token as so many tokens, for what changes a state more than once with each."""

from typing import Any

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import Trait, declare
from archc.ir.types import ROWS, TensorType, TypeMistake, fraction, multiple


def _interleaved_type(call: Any) -> TensorType:
    first: TensorType = call.xs[0]
    for other in call.xs:
        _demand_tokens(other)
        if other != first:
            raise TypeMistake(f"{first} and {other} differ")
    batch, tokens, *dims = first.shape
    return first.with_shape(batch, multiple(len(call.xs), tokens), *dims)


def _demand_tokens(type_: TensorType, *operand: str) -> None:
    if len(type_.shape) < 2 or type_.shape[0] == ROWS:
        reason = f"needs values of tokens [B, T, ...], not {type_}; `c * ones(x)` is c for each token of x"
        raise TypeMistake(reason, *operand)


@declare(infer=_interleaved_type, traits=(Trait.PER_TOKEN,))
def interleave(*xs: Tensor) -> Tensor:
    """The values of n tensors, of a list too, token by token: [B, T, ...] each -> [B, n T, ...]."""
    return torch.stack(xs, 2).flatten(1, 2)


def _every_type(call: Any) -> TensorType:
    type_: TensorType = call.x
    _demand_tokens(type_, "x")
    batch, tokens, *dims = type_.shape
    return type_.with_shape(batch, fraction(tokens, call.count), *dims)


@declare(infer=_every_type, traits=(Trait.PER_TOKEN,))
def every(x: Tensor, *, count: Width, first: bool = False) -> Tensor:
    """Of the `count` values of each token that `interleave` puts together the last, or the `first`."""
    return x[:, (0 if first else count - 1) :: count]
