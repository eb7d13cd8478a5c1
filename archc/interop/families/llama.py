"""Llama: Llama 1 to 3.2, SmolLM 1 and 2, and all who took over its class."""

from archc.interop.family import Family, activation, flag, head_dim, key_value_heads, layers, number, whole
from archc.interop.rope import rotary

LLAMA = Family(
    model_type="llama",
    spec="llama",
    arch="Llama",
    architectures=("LlamaForCausalLM", "LLaMAForCausalLM"),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 32),
        "heads": whole("num_attention_heads", 32),
        "kv_heads": key_value_heads(),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 11008),
        "vocab": whole("vocab_size", 32000),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": rotary(theta=10000.0, context=2048),
        "act": activation("hidden_act", "silu"),
        "attention_bias": flag("attention_bias", False),
        "mlp_bias": flag("mlp_bias", False),
        "tied": flag("tie_word_embeddings", False),
    },
    fixed={
        "pretraining_tp": ((1, None), "since products are not split as in that training"),
        "rope_interleaved": ((False,), "since the arch's pairs are halves of a head"),
    },
    inert=("max_sequence_length",),  # of Llama 1, whose context nothing depends on
)
