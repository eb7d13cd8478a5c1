"""Seed-OSS: the block of Qwen 2, whose queries, keys and values alone have biases."""

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
from archc.interop.rope import rotary

SEED_OSS = Family(
    model_type="seed_oss",
    spec="qwen2",
    arch="Qwen2",
    architectures=("SeedOssForCausalLM",),
    parameters={
        "d": whole("hidden_size", 4096),
        "layers": layers("num_hidden_layers", 64),
        "heads": whole("num_attention_heads", 80),
        "kv_heads": key_value_heads(8),
        "head_dim": wide_head_dim(128),
        "d_ff": whole("intermediate_size", 27648),
        "vocab": whole("vocab_size", 155136),
        "eps": number("rms_norm_eps", 1e-6),
        "rope": rotary(theta=10000.0, context=524288),
        "act": activation("hidden_act", "silu"),
        "tied": flag("tie_word_embeddings", False),
    },
    fixed={
        "attention_bias": ((True,), "since queries, keys and values of the arch have biases"),
        "attention_out_bias": ((False,), "since the arch's attention has none after it"),
        "mlp_bias": ((False,), "since the arch's MLPs have none"),
        "pretraining_tp": ((1,), "since products are not split as in that training"),
    },
    inert=("residual_dropout",),  # for training
)
