"""Command R, and with windows on most layers Command R7B and Command A."""

from dataclasses import replace
from typing import Any

from archc.interop.config import Config
from archc.interop.family import (
    Family,
    Known,
    Setting,
    activation,
    constant,
    flag,
    head_dim,
    key_value_heads,
    layers,
    number,
    whole,
)
from archc.interop.rope import rotary
from archc.interop.windows import by_period, listed_windows

_WINDOWS = listed_windows(4096, by_period)


def _windowed(config: Config, known: Known) -> Any:
    """For each layer whether it has a window, and rotates; none may."""
    return _WINDOWS["windowed"].read(config, known) or (False,) * known["layers"]


COHERE = Family(
    model_type="cohere",
    spec="cohere",
    arch="Cohere",
    architectures=("CohereForCausalLM",),
    parameters={
        "d": whole("hidden_size", 8192),
        "layers": layers("num_hidden_layers", 40),
        "heads": whole("num_attention_heads", 64),
        "kv_heads": key_value_heads(),
        "head_dim": head_dim,
        "d_ff": whole("intermediate_size", 22528),
        "vocab": whole("vocab_size", 256000),
        "eps": number("layer_norm_eps", 1e-5),
        "rope": rotary(theta=500000.0, context=8192, pairing="interleaved"),
        "logit_scale": number("logit_scale", 0.0625),
        "act": activation("hidden_act", "silu"),
        "attention_bias": flag("attention_bias", False),
        "heads_normed": flag("use_qk_norm", False),
        "tied": flag("tie_word_embeddings", True),
    },
)
COHERE2 = replace(
    COHERE,
    model_type="cohere2",
    architectures=("Cohere2ForCausalLM",),
    parameters={
        **COHERE.parameters,
        "rope": rotary(theta=10000.0, context=8192, pairing="interleaved"),
        **_WINDOWS,
        "windowed": Setting(_windowed, _WINDOWS["windowed"].write),
        "heads_normed": constant(False),
    },
    # What another library wrote, and the class does not read.
    fixed={
        "use_qk_norm": ((False,), "as in the class"),
        "use_parallel_block": ((True,), "as in the class"),
        "use_gated_activation": ((True,), "as in the class"),
        "rotary_pct": ((1.0,), "since the arch rotates whole heads"),
    },
    inert=(
        "layer_switch",
        "order_of_interleaved_layers",
        "position_embedding_type",
        "use_embedding_sharing",
        "use_parallel_embedding",
    ),
)
