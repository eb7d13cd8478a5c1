"""Linear recurrences over tokens: linear attention, state spaces, the delta rule.

A head keeps a matrix, its state, which each token changes and reads.  Nothing else is kept of earlier tokens.
"""

from typing import Any, Literal

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import OPS, Trait, declare
from archc.ir.ops.common import float_type
from archc.ir.types import DType, TensorType, TypeMistake


def _recur_type(call: Any) -> TensorType:
    q, k, v = (_heads_type(call, name) for name in ("q", "k", "v"))
    if k.shape != q.shape:
        raise TypeMistake(f"must be like the queries {q}, not {k}", "k")
    heads, kv_heads = v.shape[2], q.shape[2]
    if q.shape[:2] != v.shape[:2] or int(heads) % int(kv_heads):
        raise TypeMistake(f"must be of the same tokens as {q}, with a multiple of its heads, not {v}", "v")
    per_head, per_channel = v.shape[:3], (*v.shape[:3], q.shape[3])
    decays = [per_head, per_channel, per_head[2:], per_channel[2:]]
    _demand(call, "log_decay", decays, "[B, T, heads] or [B, T, heads, width(k)], or these without B and T")
    _demand(call, "beta", [per_head], "[B, T, heads]")
    _demand(call, "erase", [per_channel], "[B, T, heads, width(k)]")
    _demand(call, "renew", [per_channel], "[B, T, heads, width(k)]")
    if (call.erase is None) != (call.renew is None):
        missing, given = ("renew", "erase") if call.renew is None else ("erase", "renew")
        raise TypeMistake(f"goes with `{missing}`: what is read of the state, and where that is added", given)
    return v


def _heads_type(call: Any, name: str) -> TensorType:
    type_ = float_type(call, name)
    if len(type_.shape) != 4 or not all(isinstance(dim, int) for dim in type_.shape[2:]):
        raise TypeMistake(
            f"needs heads [B, T, heads, width], not {type_}", name, hint="`split_heads` makes them"
        )
    return type_


def _demand(call: Any, name: str, shapes: list[tuple[Any, ...]], words: str) -> None:
    """Raise `TypeMistake` unless an operand is missing, or floating and of one of some shapes."""
    if getattr(call, name) is None:
        return
    type_ = float_type(call, name)
    if type_.shape not in shapes:
        heads = f"{call.v.shape[2]} heads, of the values {call.v}"
        raise TypeMistake(f"needs {words}, for {heads}; not {type_}", name)


def _state_shape(call: Any) -> tuple[int, ...]:
    """One sequence's state: [heads, width of keys, width of values]."""
    return call.v.shape[2], call.k.shape[3], call.v.shape[3]


def _recur_flops(call: Any) -> int:
    """Two for each element of the state and each product with it, one for a decay."""
    elements = int(call.v.numel()) * int(call.k.shape[3])
    products = 2 + (call.beta is not None) + 2 * (call.erase is not None)
    return elements * (2 * products + (call.log_decay is not None))


@declare(
    infer=_recur_type,
    traits=(Trait.MATRIX,),
    carries=_state_shape,
    flops=_recur_flops,
    saves=("q", "k", "v", "log_decay", "beta", "erase", "renew"),
)
def recur(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    erase: Tensor | None = None,
    renew: Tensor | None = None,
    state: Tensor | None = None,
    *,
    scale: float,
    reads: Literal["after", "before"],
) -> Tensor:
    """What each head reads of its state S, which every token changes, in float32: S = e^log_decay S + k v^T.

    q and k are [B, T, kv_heads, K], v and the result [B, T, heads, V], S is [K, V]: as many heads as follow
    one another share a q and a k.  Where `positions` [1 or B, T] are -1, for padding, nothing changes.

    `log_decay` is [B, T, heads], or [B, T, heads, K] for each row of S, or one of these without B and T.

    `beta` [B, T, heads] is for the delta rule: k stores beta (v - S^T k), S after the decay, in place of v.

    `erase` and `renew` [B, T, heads, K]: renew (erase^T S) is added, S before the decay.

    `state` [B, heads, K, V] is S of the tokens so far, replaced by that of all tokens; None stands for 0.

    The result is S^T q `scale`, S before or after the token's change, as `reads` says.

    Linear Transformers, arXiv 2006.16236; Mamba-2, arXiv 2405.21060; Gated DeltaNet, arXiv 2412.06464.
    """
    if v.shape[1] == 0:
        return v.clone()
    wide = torch.promote_types(v.dtype, torch.float32)
    group = v.shape[2] // q.shape[2]
    queries, keys = (x.to(wide).repeat_interleave(group, 2)[..., None] for x in (q, k))  # [B, T, heads, K, 1]
    values = v.to(wide)[..., None, :]
    if log_decay is not None:
        decay = log_decay.to(wide).exp()
        decay = decay[..., None, None] if log_decay.dim() % 2 else decay[..., None]
        decay = decay.expand(*v.shape[:3], *decay.shape[-2:])
    s = torch.zeros_like(keys[:, 0] * values[:, 0]) if state is None else state.clone()
    results = []
    for t in range(v.shape[1]):
        before, key, value = s, keys[:, t], values[:, t]
        if reads == "before":
            results.append((queries[:, t] * s).sum(-2))
        if log_decay is not None:
            s = s * decay[:, t]
        if erase is not None and renew is not None:
            found = (erase[:, t, ..., None].to(wide) * before).sum(-2, keepdim=True)
            s = s + renew[:, t, ..., None].to(wide) * found
        if beta is not None:
            value = beta[:, t, :, None, None].to(wide) * (value - (key * s).sum(-2, keepdim=True))
        s = torch.where(positions[:, t, None, None, None] < 0, before, s + key * value)
        if reads == "after":
            results.append((queries[:, t] * s).sum(-2))
    if state is not None:
        state.copy_(s)
    return (torch.stack(results, 1) * scale).to(v.dtype)


@declare(infer=lambda call: TensorType((call.like.shape[0], *call.shape), DType.F32), internal=True)
def carried(like: Tensor, *, slot: str, shape: tuple[Width, ...]) -> Tensor:
    """A state for each sequence after the tokens so far, in float32; zeros without a cache."""
    return like.new_zeros(len(like), *shape, dtype=torch.promote_types(like.dtype, torch.float32))


@declare(infer=lambda call: call.positions, traits=(Trait.PER_TOKEN,))
def new_positions(positions: Tensor, key_positions: Tensor) -> Tensor:
    """The positions of the new tokens as those of keys are written, -1 for padding: [1 or B, T]."""
    return key_positions[:, -positions.shape[1] :]


RECUR, CARRIED, NEW_POSITIONS = OPS["recur"], OPS["carried"], OPS["new_positions"]
