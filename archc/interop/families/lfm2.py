"""LFM2: short convolutions in most layers, and attention where a list says so."""

from typing import Any

from archc.interop.config import Config
from archc.interop.family import (
    Family,
    Known,
    Setting,
    flag,
    head_dim,
    key_value_heads,
    layers,
    number,
    number_or_none,
    whole,
)
from archc.interop.rope import rotary
from archc.interop.windows import FULL

CONV = "conv"


def _attends(config: Config, known: Known) -> tuple[bool, ...]:
    """For each layer whether it is attention: by its kind, or the numbers of those that are; else all are."""
    count: int = known["layers"]
    listed = config.get("full_attn_idxs")
    types = config.items("layer_types", count, (CONV, FULL).__contains__, f'"{CONV}" or "{FULL}"')
    if types is not None:
        return tuple(each == FULL for each in types)
    if listed is None:
        return (True,) * count
    if not isinstance(listed, list) or not all(type(layer) is int for layer in listed):
        config.complain("full_attn_idxs", "must be a list of layers' numbers")
        return (True,) * count
    return tuple(layer in listed for layer in range(count))


def _write_attends(value: tuple[bool, ...], _known: Known) -> dict[str, Any]:
    return {"layer_types": [FULL if each else CONV for each in value]}


_multiplier = number_or_none("block_ffn_dim_multiplier", 1.0)


def _d_ff(config: Config, known: Known) -> int:
    """How wide MLPs are: two thirds of what is said, rounded up, unless that is said not to be adjusted."""
    width = config.whole("intermediate_size", 12288, least=2)
    width = config.whole("block_ff_dim", width, least=2)
    multiple, multiplier = config.whole("block_multiple_of", 256), _multiplier(config, known)
    if not config.flag("block_auto_adjust_ff_dim", True):
        return width
    width = int(2 * width / 3)
    if not isinstance(multiplier, float):
        return width
    return -(-int(multiplier * width) // multiple) * multiple


def _write_d_ff(value: int, _known: Known) -> dict[str, Any]:
    return {"intermediate_size": int(value), "block_auto_adjust_ff_dim": False}


def _tied(config: Config, _known: Known) -> bool:
    """Two keys may say it, of which the older one goes first."""
    return config.flag("tie_embedding", config.flag("tie_word_embeddings", True))


LFM2 = Family(
    model_type="lfm2",
    spec="lfm2",
    arch="LFM2",
    architectures=("Lfm2ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 2560),
        "layers": layers("num_hidden_layers", 32),
        "heads": whole("num_attention_heads", 32),
        "kv_heads": key_value_heads(8),
        "head_dim": head_dim,
        "d_ff": Setting(_d_ff, _write_d_ff),
        "vocab": whole("vocab_size", 65536),
        "attends": Setting(_attends, _write_attends),
        "taps": whole("conv_L_cache", 3),
        "eps": number("norm_eps", 1e-5),
        "rope": rotary(theta=1000000.0, context=128000),
        "conv_bias": flag("conv_bias", False),
        "tied": Setting(_tied, lambda value, _known: {"tie_word_embeddings": value}),
    },
    fixed={
        "block_use_swiglu": ((True,), "as in the class"),
        "use_pos_enc": ((True,), "as in the class"),
    },
    # What the library that trained it wrote, and the class does not read.
    inert=(
        "block_dim",
        "block_mlp_init_scale",
        "block_norm_eps",
        "block_out_init_scale",
        "block_use_xavier_init",
        "conv_dim",
        "conv_dim_out",
        "conv_use_xavier_init",
        "num_heads",
    ),
)
