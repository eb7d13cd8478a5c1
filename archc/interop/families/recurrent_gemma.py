"""RecurrentGemma: gated linear recurrences, attention in every n-th layer."""

import math
from typing import Any

from archc.interop.config import Config
from archc.interop.family import (
    Family,
    Known,
    Setting,
    activation,
    flag,
    key_value_heads,
    layers,
    number,
    whole,
)
from archc.interop.rope import partly_rotary
from archc.ir.ops.position import Rope

RECURRENT, ATTENTION = "recurrent", "attention"
_KINDS = "block_types"
_ROTARY = partly_rotary(theta=10000.0, context=8192, share=0.5)


def _d_ff(config: Config, _known: Known) -> int:
    """The width of the MLP, of which the key counts gate and value together."""
    return config.whole("intermediate_size", 7680, least=2) // 2


def _head_dim(config: Config, known: Known) -> int:
    """The width divided among the heads, whatever the key says."""
    width, heads = known["d"], known["heads"]
    if width % heads or config.get("head_dim", width // heads) != width // heads:
        config.complain("head_dim", f"must be hidden_size / num_attention_heads, {width} / {heads}")
    return max(1, int(width) // int(heads))


def _inner(config: Config, known: Known) -> int:
    inner: int = config.whole("lru_width", known["d"], null=known["d"])
    if inner % known["heads"]:
        config.complain("lru_width", f"must split into {known['heads']} blocks, as many as there are heads")
    return inner


def _attends(config: Config, known: Known) -> tuple[bool, ...]:
    """Of each period of layers, which are attention."""
    older = config.get(f"_{_KINDS}", [RECURRENT, RECURRENT, ATTENTION])  # as transformers 4 wrote the key
    kinds = config.get(_KINDS, older)
    if not isinstance(kinds, list) or not kinds or any(kind not in (RECURRENT, ATTENTION) for kind in kinds):
        config.complain(_KINDS, f'must be a list, each "{RECURRENT}" or "{ATTENTION}"')
        return (False,)
    return tuple(kind == ATTENTION for kind in kinds[: known["layers"]])


def _write_attends(value: tuple[bool, ...], _known: Known) -> dict[str, Any]:
    return {_KINDS: [ATTENTION if each else RECURRENT for each in value]}


def _embedding_scale(_config: Config, known: Known) -> float:
    """The root of the width, rounded to the eight bits of a bfloat16."""
    share, exponent = math.frexp(known["d"] ** 0.5)
    return math.ldexp(round(share * 256), exponent - 8)


def _rope(config: Config, known: Known) -> Rope:
    """Half of each head, and no scaling: the class has none."""
    rope = _ROTARY(config, known)
    assert isinstance(rope, Rope)
    if rope.scaling is not None:
        config.complain("rope_parameters", "supported is only the default rope_type")
    return rope


RECURRENT_GEMMA = Family(
    model_type="recurrent_gemma",
    spec="recurrent_gemma",
    arch="RecurrentGemma",
    architectures=("RecurrentGemmaForCausalLM",),
    parameters={
        "d": whole("hidden_size", 2560),
        "layers": layers("num_hidden_layers", 26),
        "heads": whole("num_attention_heads", 10),
        "kv_heads": key_value_heads(),
        "head_dim": Setting(_head_dim, lambda _value, _known: {}),
        "d_ff": Setting(_d_ff, lambda value, _known: {"intermediate_size": 2 * int(value)}),
        "inner": Setting(_inner, lambda value, _known: {"lru_width": int(value)}),
        "taps": whole("conv1d_width", 4),
        "vocab": whole("vocab_size", 256000),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": Setting(_rope, _ROTARY.write),
        "window": whole("attention_window_size", 2048),
        "attends": Setting(_attends, _write_attends),
        "embedding_scale": Setting(_embedding_scale, lambda _value, _known: {}),
        "logit_softcap": number("logits_soft_cap", 30.0),
        "act": activation("hidden_activation", "gelu_pytorch_tanh"),
        "attention_bias": flag("attention_bias", False),
        "tied": flag("tie_word_embeddings", True),
    },
    fixed={"embeddings_scale_by_sqrt_dim": ((True,), "since the arch scales embeddings")},
    # Start values; another key says the window.
    inert=("w_init_variance_scale", "final_w_init_variance_scale", "sliding_window", "layer_types"),
)
