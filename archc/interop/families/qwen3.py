"""Qwen 3, the dense models."""

from archc.interop.family import Family, activation, flag, key_value_heads, layers, number, whole
from archc.interop.rope import rotary
from archc.interop.windows import qwen_windows

QWEN3 = Family(
    model_type="qwen3",
    spec="qwen3",
    arch="Qwen3",
    architectures=("Qwen3ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 32),
        "heads": whole("num_attention_heads", 32),
        "kv_heads": key_value_heads(32),
        "head_dim": whole("head_dim", 128),
        "d_ff": whole("intermediate_size", 22016),
        "vocab": whole("vocab_size", 151936),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": rotary(theta=10000.0, context=32768),
        **qwen_windows(),
        "act": activation("hidden_act", "silu"),
        "attention_bias": flag("attention_bias", False),
        "tied": flag("tie_word_embeddings", False),
    },
)
