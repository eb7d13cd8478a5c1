"""Gemma, the first version: norms whose weights are around 0, scaled embeddings."""

from typing import Any

from archc.interop.config import Config
from archc.interop.families.gemma2 import FIXED
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
from archc.interop.rope import rotary
from archc.ir.records import Symbol

_ACTIVATION = activation("hidden_act", "gelu_pytorch_tanh")


def _act(config: Config, known: Known) -> Any:
    """The activation; by `gelu`, which was published first, its class means the approximation by tanh."""
    return Symbol("gelu_tanh") if config.get("hidden_act") == "gelu" else _ACTIVATION.read(config, known)


GEMMA = Family(
    model_type="gemma",
    spec="gemma",
    arch="Gemma",
    architectures=("GemmaForCausalLM",),
    parameters={
        "d": whole("hidden_size", 3072),
        "layers": layers("num_hidden_layers", 28),
        "heads": whole("num_attention_heads", 16),
        "kv_heads": key_value_heads(16),
        "head_dim": whole("head_dim", 256),
        "d_ff": whole("intermediate_size", 24576),
        "vocab": whole("vocab_size", 256000),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": rotary(theta=10000.0, context=8192),
        "act": Setting(_act, _ACTIVATION.write),
        "attention_bias": flag("attention_bias", False),
        "tied": flag("tie_word_embeddings", True),
    },
    fixed=FIXED,
    inert=("hidden_activation",),  # which another version of the class read
)
