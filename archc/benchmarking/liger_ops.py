"""Liger's kernels as stand-ins for a model's own: by the fusion that each is, on the same values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# From a fusion's attributes and a call's arguments: Liger's function, and what it takes.  What it wants laid
# out otherwise is laid out before its time is taken.
Adapter = Callable[[Mapping[str, Any], tuple[Any, ...]], tuple[Callable[..., Any], tuple[Any, ...]]]


def _mode(attributes: Mapping[str, Any]) -> str:
    return "gemma" if attributes["offset"] else "llama"


def _rms_norm(attributes: Mapping[str, Any], given: tuple[Any, ...]) -> Any:
    from liger_kernel.ops import LigerRMSNormFunction

    eps, offset, mode = float(attributes["eps"]), float(attributes["offset"]), _mode(attributes)
    return lambda x, w: LigerRMSNormFunction.apply(x, w, eps, offset, mode, False), given


def _add_rms_norm(attributes: Mapping[str, Any], given: tuple[Any, ...]) -> Any:
    from liger_kernel.ops import LigerFusedAddRMSNormFunction

    eps, offset, mode = float(attributes["eps"]), float(attributes["offset"]), _mode(attributes)
    return lambda x, r, w: LigerFusedAddRMSNormFunction.apply(x, r, w, eps, offset, mode, False), given


def _layer_norm(attributes: Mapping[str, Any], given: tuple[Any, ...]) -> Any:
    from liger_kernel.ops import LigerLayerNormFunction

    eps = float(attributes["eps"])
    return lambda x, w, b: LigerLayerNormFunction.apply(x, w, b, eps), given


def _halves(given: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Gate and up as two tensors, which is how Liger takes them."""
    gate, up = given[0].chunk(2, -1)
    return gate.contiguous(), up.contiguous()


def _swiglu(_attributes: Mapping[str, Any], given: tuple[Any, ...]) -> Any:
    from liger_kernel.ops import LigerSiLUMulFunction

    return LigerSiLUMulFunction.apply, _halves(given)


def _geglu_tanh(_attributes: Mapping[str, Any], given: tuple[Any, ...]) -> Any:
    from liger_kernel.ops import LigerGELUMulFunction

    return LigerGELUMulFunction.apply, _halves(given)


def _rope(_attributes: Mapping[str, Any], given: tuple[Any, ...]) -> Any:
    """It takes heads before tokens, tables for both values of a pair, and rotates in place."""
    from liger_kernel.ops import LigerRopeFunction

    q, k, cos, sin = given
    heads = (q.contiguous().transpose(1, 2), k.contiguous().transpose(1, 2))
    return LigerRopeFunction.apply, (*heads, *(torch.cat([table, table], -1) for table in (cos, sin)))


def _rope_qkv(attributes: Mapping[str, Any], given: tuple[Any, ...]) -> Any:
    """It has nothing to do with values, which need no rotation."""
    qkv, cos, sin = given
    q, k, _ = qkv.split([int(size) for size in attributes["sizes"]], -1)
    q = q.unflatten(-1, (int(attributes["heads"]), -1))
    return _rope(attributes, (q, k.unflatten(-1, (int(attributes["kv_heads"]), -1)), cos, sin))


def _linear_cross_entropy(_attributes: Mapping[str, Any], given: tuple[Any, ...]) -> Any:
    from liger_kernel.ops import LigerFusedLinearCrossEntropyFunction

    h, weight, targets = given[0].flatten(0, 1), given[1], given[2].flatten()
    return lambda h, weight: LigerFusedLinearCrossEntropyFunction.apply(h, weight, targets)[0], (h, weight)


ADAPTERS: dict[str, Adapter] = {
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "layer_norm": _layer_norm,
    "swiglu": _swiglu,
    "geglu_tanh": _geglu_tanh,
    "rope": _rope,
    "rope_qkv": _rope_qkv,
    "linear_cross_entropy": _linear_cross_entropy,
}
