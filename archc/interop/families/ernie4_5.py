"""ERNIE 4.5, the dense models: Llama's block, whose pairs are neighbours and whose biases one key says."""

from archc.interop.config import Config
from archc.interop.family import (
    Family,
    Known,
    Value,
    activation,
    flag,
    key_value_heads,
    layers,
    number,
    whole,
    wide_head_dim,
)
from archc.interop.rope import rotary


def _as_attention(_config: Config, known: Known) -> Value:
    biased: bool = known["attention_bias"]
    return biased


ERNIE4_5 = Family(
    model_type="ernie4_5",
    spec="llama",
    arch="Llama",
    architectures=("Ernie4_5ForCausalLM",),
    parameters={
        "d": whole("hidden_size", 1024),
        "layers": layers("num_hidden_layers", 18),
        "heads": whole("num_attention_heads", 16),
        "kv_heads": key_value_heads(2),
        "head_dim": wide_head_dim(128),
        "d_ff": whole("intermediate_size", 3072),
        "vocab": whole("vocab_size", 103424),
        "eps": number("rms_norm_eps", 1e-5),
        "rope": rotary(theta=500000.0, context=131072, pairing="interleaved"),
        "act": activation("hidden_act", "silu"),
        "attention_bias": flag("use_bias", False),
        "mlp_bias": _as_attention,
        "tied": flag("tie_word_embeddings", True),
    },
    inert=("auto_map",),  # the code of its own that the class was written after
)
