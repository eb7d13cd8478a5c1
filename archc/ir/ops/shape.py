"""Ops that only rearrange or repeat: splits, heads, concatenation, slices."""

from typing import Any

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import OPS, Trait, declare
from archc.ir.ops.common import known_width
from archc.ir.types import Dim, TensorType, TypeMistake

_TRAITS = (Trait.PER_TOKEN, Trait.SHAPE, Trait.VIEW)


def _split_types(call: Any) -> tuple[TensorType, ...]:
    width = known_width(call.x)
    if isinstance(call.sizes, int):
        if width % call.sizes:
            raise TypeMistake(f"{call.x} does not split into {call.sizes} equal parts", "x")
        return (call.x.with_width(width // call.sizes),) * call.sizes
    if sum(call.sizes) != width:
        raise TypeMistake(f"parts {list(map(int, call.sizes))} do not add up to the width of {call.x}", "x")
    return tuple(call.x.with_width(size) for size in call.sizes)


@declare(infer=_split_types, traits=_TRAITS)
def split(x: Tensor, *, sizes: Width | tuple[Width, ...]) -> tuple[Tensor, ...]:
    """Parts of the last dim: a list of widths, or a number of equal parts."""
    return torch.chunk(x, sizes, -1) if isinstance(sizes, int) else torch.split_with_sizes(x, sizes, -1)


def _split_interleaved_types(call: Any) -> tuple[TensorType, ...]:
    width = known_width(call.x)
    if width % call.parts:
        raise TypeMistake(f"{call.x} does not split into {call.parts} equal parts", "x")
    return tuple(call.x.with_width(width // call.parts) for _ in range(call.parts))


@declare(infer=_split_interleaved_types, traits=_TRAITS)
def split_interleaved(x: Tensor, *, parts: Width) -> tuple[Tensor, ...]:
    """Interleaved parts of the last dim: part p has values p, p + parts, p + 2 * parts..."""
    return torch.unbind(torch.unflatten(x, -1, (-1, parts)), -1)


def _concat_type(call: Any) -> TensorType:
    first: TensorType = call.xs[0]
    for other in call.xs[1:]:
        if other.shape[:-1] != first.shape[:-1] or other.dtype is not first.dtype:
            raise TypeMistake(f"{first} and {other} differ before the last dim")
    total: int = 0
    for part in call.xs:
        total = total + known_width(part)
    return first.with_width(total)


@declare(infer=_concat_type, traits=(Trait.PER_TOKEN, Trait.SHAPE))
def concat(*xs: Tensor) -> Tensor:
    """Concatenation along the last dim, of the tensors of a list too."""
    return torch.cat(xs, -1)


def _split_heads_type(call: Any) -> TensorType:
    width = known_width(call.x)
    if width % call.heads:
        reason = f"{width} is not divisible by {call.heads}"
        raise TypeMistake(f"{call.x} does not split into {call.heads} heads: {reason}", "x")
    type_: TensorType = call.x.with_shape(*call.x.shape[:-1], call.heads, width // call.heads)
    return type_


@declare(infer=_split_heads_type, traits=_TRAITS)
def split_heads(x: Tensor, *, heads: Width) -> Tensor:
    """[..., heads * head_dim] -> [..., heads, head_dim]."""
    return torch.unflatten(x, -1, (heads, -1))


def _merge_heads_type(call: Any) -> TensorType:
    if len(call.x.shape) < 2 or not isinstance(call.x.shape[-2], int):
        raise TypeMistake(f"needs heads [..., heads, head_dim], not {call.x}", "x")
    merged: Dim = call.x.shape[-2] * known_width(call.x)
    type_: TensorType = call.x.with_shape(*call.x.shape[:-2], merged)
    return type_


@declare(infer=_merge_heads_type, traits=_TRAITS)
def merge_heads(x: Tensor) -> Tensor:
    """[..., heads, head_dim] -> [..., heads * head_dim]."""
    return x.flatten(-2)


def _expand_heads_type(call: Any) -> TensorType:
    if len(call.x.shape) != 4 or call.x.shape[2] != 1:
        raise TypeMistake(f"needs one head [B, T, 1, head_dim], not {call.x}", "x")
    type_: TensorType = call.x.with_shape(*call.x.shape[:2], call.heads, call.x.width)
    return type_


@declare(infer=_expand_heads_type, traits=_TRAITS)
def expand_heads(x: Tensor, *, heads: Width) -> Tensor:
    """One head for all: [B, T, 1, head_dim] -> [B, T, heads, head_dim], without a copy."""
    return x.expand(-1, -1, heads, -1)


@declare(infer=lambda call: call.x, traits=_TRAITS, internal=True)
def repeat_sequence(x: Tensor, like: Tensor) -> Tensor:
    """A value that all sequences share, for each sequence of `like`: [1 or B, ...] -> [B, ...], no copy."""
    return x.expand(like.shape[0], *x.shape[1:])


@declare(infer=lambda call: call.x.with_shape(*call.x.shape, 1), traits=_TRAITS)
def unsqueeze(x: Tensor) -> Tensor:
    """Append a dim of length 1: [...] -> [..., 1]."""
    return x[..., None]


def _squeeze_type(call: Any) -> TensorType:
    if not call.x.shape or call.x.shape[-1] != 1:
        raise TypeMistake(f"needs a last dim of length 1, not {call.x}", "x")
    type_: TensorType = call.x.with_shape(*call.x.shape[:-1])
    return type_


@declare(infer=_squeeze_type, traits=_TRAITS)
def squeeze(x: Tensor) -> Tensor:
    """Leave out a last dim of length 1: [..., 1] -> [...]."""
    return x.squeeze(-1)


def _transpose_type(call: Any) -> TensorType:
    rows = call.x.shape[-2] if len(call.x.shape) > 1 else None
    if not isinstance(rows, int):
        raise TypeMistake(f"needs matrices of a known size [..., rows, columns], not {call.x}", "x")
    type_: TensorType = call.x.with_shape(*call.x.shape[:-2], known_width(call.x), rows)
    return type_


@declare(infer=_transpose_type, traits=(Trait.PER_TOKEN, Trait.SHAPE))
def transpose(x: Tensor) -> Tensor:
    """[..., rows, columns] -> [..., columns, rows]."""
    return x.transpose(-1, -2).contiguous()


def _slice_type(call: Any) -> TensorType:
    width = known_width(call.x)
    if not 0 <= call.start < call.end <= width:
        raise TypeMistake(f"{call.start}..{call.end} does not lie in the width of {call.x}", "x")
    type_: TensorType = call.x.with_width(call.end - call.start)
    return type_


@declare(infer=_slice_type, traits=_TRAITS)
def slice(x: Tensor, *, start: int, end: int) -> Tensor:
    """Values `start` up to, not including, `end` of the last dim."""
    return x[..., start:end]


CONCAT, REPEAT_SEQUENCE, SPLIT, SPLIT_HEADS, MERGE_HEADS = (
    OPS[name] for name in ("concat", "repeat_sequence", "split", "split_heads", "merge_heads")
)
