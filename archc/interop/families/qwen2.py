"""Qwen 2 and 2.5."""

from archc.interop.family import Family, activation, flag, head_dim, key_value_heads, layers, number, whole
from archc.interop.rope import rotary
from archc.interop.windows import qwen_windows

QWEN2 = Family(
    model_type="qwen2",
    spec="qwen2",
    arch="Qwen2",
    architectures=("Qwen2ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 32),
        "heads": whole("num_attention_heads", 32),
        "kv_heads": key_value_heads(32),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 22016),
        "vocab": whole("vocab_size", 151936),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": rotary(theta=10000.0, context=32768),
        **qwen_windows(),
        "act": activation("hidden_act", "silu"),
        "tied": flag("tie_word_embeddings", False),
    },
    fixed={"use_mrope": ((False,), "since positions are those of text")},
)
