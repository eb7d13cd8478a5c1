"""Ministral and the Code World Model: SmolLM 3's block, all of whose layers rotate, some in a window."""

from dataclasses import replace

from archc.interop.family import (
    Family,
    Setting,
    activation,
    flag,
    head_dim,
    key_value_heads,
    layers,
    number,
    whole,
    wide_head_dim,
)
from archc.interop.rope import rotary, scaled
from archc.interop.windows import listed_windows
from archc.ir.attributes import Width
from archc.ir.ops.scaling import Llama3

MINISTRAL = Family(
    model_type="ministral",
    spec="smollm3",
    arch="SmolLM3",
    architectures=("MinistralForCausalLM",),
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
        "rotated": Setting(lambda _config, known: (True,) * known["layers"], lambda _value, _known: {}),
        **listed_windows(4096, lambda _layer, _config: True),
        "act": activation("hidden_act", "silu"),
        "tied": flag("tie_word_embeddings", False),
    },
)
CWM = replace(
    MINISTRAL,
    model_type="cwm",
    architectures=("CwmForCausalLM",),
    parameters={
        **MINISTRAL.parameters,
        "d": whole("hidden_size", 6144),
        "layers": layers("num_hidden_layers", 64),
        "heads": whole("num_attention_heads", 48),
        "head_dim": wide_head_dim(128),
        "d_ff": whole("intermediate_size", 21504),
        "vocab": whole("vocab_size", 128256),
        "eps": number("rms_norm_eps", 1e-5),
        "rope": scaled(
            rotary(theta=1000000.0, context=131072),
            Llama3(factor=16.0, low=1.0, high=4.0, original=Width(8192)),
        ),
        **listed_windows(8192, lambda layer, _config: layer % 4 != 0),
        "mlp_bias": flag("mlp_bias", False),
    },
    fixed={"pretraining_tp": ((1,), "since products are not split as in that training")},
)
