"""Gemma 2: soft caps, windows on every other layer, and what Gemma 3 has in common with it."""

from collections.abc import Mapping

from archc.interop.family import (
    Family,
    Reader,
    activation,
    flag,
    key_value_heads,
    layers,
    number,
    number_or_none,
    query_scale,
    whole,
)
from archc.interop.rope import rotary
from archc.interop.windows import every_other, windowed

SIZES: Mapping[str, Reader] = {
    "d": whole("hidden_size", 2304),
    "layers": layers("num_hidden_layers", 26),
    "heads": whole("num_attention_heads", 8),
    "kv_heads": key_value_heads(4),
    "head_dim": whole("head_dim", 256),
    "d_ff": whole("intermediate_size", 9216),
}
SCALE: Mapping[str, Reader] = {"scale": query_scale("query_pre_attn_scalar", 256)}
WINDOW: Mapping[str, Reader] = {"window": whole("sliding_window", 4096)}
ENDS: Mapping[str, Reader] = {
    "act": activation("hidden_activation", "gelu_pytorch_tanh"),
    "attention_bias": flag("attention_bias", False),
    "tied": flag("tie_word_embeddings", True),
}
FIXED = {"use_bidirectional_attention": ((False, None), "since the arch is causal")}
INERT = ("hidden_act", "sliding_window_size")  # other keys say the activation and the window

GEMMA2 = Family(
    model_type="gemma2",
    spec="gemma2",
    arch="Gemma2",
    architectures=("Gemma2ForCausalLM",),
    parameters={
        **SIZES,
        "vocab": whole("vocab_size", 256000),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": rotary(theta=10000.0, context=8192),
        **SCALE,
        "softcap": number_or_none("attn_logit_softcapping", 50.0),
        "logit_softcap": number_or_none("final_logit_softcapping", 30.0),
        **WINDOW,
        "windowed": windowed(every_other),
        **ENDS,
    },
    fixed=FIXED,
    inert=INERT,
)
