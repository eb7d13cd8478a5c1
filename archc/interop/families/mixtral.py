"""Mixtral: Mistral's layer with experts in the place of the MLP."""

from archc.interop.family import Family, activation, flag, head_dim, key_value_heads, layers, number, whole
from archc.interop.rope import rotary
from archc.interop.routing import balance, choices, experts, factor_or_none
from archc.interop.windows import window

MIXTRAL = Family(
    model_type="mixtral",
    spec="mixtral",
    arch="Mixtral",
    architectures=("MixtralForCausalLM",),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 32),
        "heads": whole("num_attention_heads", 32),
        "kv_heads": key_value_heads(8),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 14336),
        "experts": experts("num_local_experts", 8),
        "choices": choices("num_experts_per_tok", 2),
        "vocab": whole("vocab_size", 32000),
        "eps": number("rms_norm_eps", 1e-5),
        "rope": rotary(theta=1000000.0, context=131072),
        "window": window(None),
        "act": activation("hidden_act", "silu"),
        "balance": balance(0.001),
        "noise": factor_or_none("router_jitter_noise", 0.0),
        "tied": flag("tie_word_embeddings", False),
    },
    quantised="fp8",
)
