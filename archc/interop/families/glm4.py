"""GLM-4 of 2025: norms after attention and MLP too, and half of each head rotated by pairs of neighbours."""

from archc.interop.family import (
    Family,
    activation,
    flag,
    key_value_heads,
    layers,
    number,
    whole,
    wide_head_dim,
)
from archc.interop.rope import partly_rotary

GLM4 = Family(
    model_type="glm4",
    spec="glm4",
    arch="Glm4",
    architectures=("Glm4ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 40),
        "heads": whole("num_attention_heads", 32),
        "kv_heads": key_value_heads(2),
        "head_dim": wide_head_dim(128),
        "d_ff": whole("intermediate_size", 13696),
        "vocab": whole("vocab_size", 151552),
        "eps": number("rms_norm_eps", 1.5625e-7),
        "rope": partly_rotary(theta=10000.0, context=131072, share=0.5, pairing="interleaved"),
        "act": activation("hidden_act", "silu"),
        "attention_bias": flag("attention_bias", True),
        "tied": flag("tie_word_embeddings", False),
    },
)
