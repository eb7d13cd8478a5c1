"""Lists of numbers that stand where an op takes a tensor."""

from typing import Any

from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import OPS, Trait, declare
from archc.ir.types import DType, TensorType, TypeMistake


def vector(values: tuple[Any, ...], device: Any, dtype: Any) -> Tensor:
    """Numbers, or lists of them.  Generated packages have a function of this name that copies them once."""
    return torch.tensor(values, dtype=dtype, device=device)


def _constants_type(call: Any) -> TensorType:
    return TensorType(_shape(call.values), DType.F32)


def _shape(values: tuple[Any, ...]) -> tuple[int, ...]:
    """The lengths of lists within lists of equal length; raises `TypeMistake`."""
    if not values:
        raise TypeMistake("a list that stands for a tensor has numbers in it, and this one is empty")
    shapes = {_shape(value) if isinstance(value, tuple) else () for value in values}
    if len(shapes) > 1:
        raise TypeMistake("lists within a list that stands for a tensor must be equally long")
    return len(values), *shapes.pop()


@declare(
    infer=_constants_type,
    traits=(Trait.PER_TOKEN,),
    models=("like",),
    fixed=lambda _: True,
    internal=True,
)
def constants(like: Tensor, *, values: tuple[float | tuple[float, ...], ...]) -> Tensor:
    """What a list of the spec holds, in float32, or in the dtype of `like` if that is wider."""
    return vector(values, like.device, torch.promote_types(like.dtype, torch.float32))


CONSTANTS = OPS["constants"]
