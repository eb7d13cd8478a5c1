"""Mistral 7B and its kin: the Llama block, with a window on every layer or on none."""

from archc.interop.family import Family, activation, flag, head_dim, key_value_heads, layers, number, whole
from archc.interop.rope import rotary
from archc.interop.windows import window

MISTRAL = Family(
    model_type="mistral",
    spec="llama",
    arch="Llama",
    architectures=("MistralForCausalLM",),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 32),
        "heads": whole("num_attention_heads", 32),
        "kv_heads": key_value_heads(8),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 14336),
        "vocab": whole("vocab_size", 32000),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": rotary(theta=10000.0, context=131072),
        "window": window(4096),
        "act": activation("hidden_act", "silu"),
        "tied": flag("tie_word_embeddings", False),
    },
)
