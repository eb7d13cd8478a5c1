"""OLMo 2 and 3."""

from dataclasses import replace

from archc.interop.family import Family, activation, flag, head_dim, key_value_heads, layers, number, whole
from archc.interop.rope import rotary, rotary_by_layers
from archc.interop.windows import listed_windows

OLMO2 = Family(
    model_type="olmo2",
    spec="olmo2",
    arch="Olmo2",
    architectures=("Olmo2ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 32),
        "heads": whole("num_attention_heads", 32),
        "kv_heads": key_value_heads(),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 11008),
        "vocab": whole("vocab_size", 50304),
        "eps": number("rms_norm_eps", 1e-5),
        "rope": rotary(theta=10000.0, context=2048),
        "act": activation("hidden_act", "silu"),
        "attention_bias": flag("attention_bias", False),
        "tied": flag("tie_word_embeddings", False),
    },
)

# A window on three layers of four, whose frequencies are never scaled.
OLMO3 = replace(
    OLMO2,
    model_type="olmo3",
    architectures=("Olmo3ForCausalLM",),
    parameters={
        **OLMO2.parameters,
        **rotary_by_layers(theta=500000.0, local_theta=500000.0, context=2048, local_key=None),
        **listed_windows(4096, lambda layer, _config: (layer + 1) % 4 != 0),
    },
)
